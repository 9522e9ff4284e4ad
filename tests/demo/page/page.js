'use strict';
(() => {
  const root = document.documentElement;
  const button = document.getElementById('theme');
  const themes = ['auto', 'light', 'dark'];
  const paint = (theme) => {
    if (theme === 'auto') root.removeAttribute('data-theme');
    else root.setAttribute('data-theme', theme);
    document.getElementById('theme-name').textContent = theme;
    button.setAttribute('aria-label', 'Colours: ' + (theme === 'auto' ? 'as the system has them' : theme));
  };
  let theme = 'auto';
  try { theme = localStorage.getItem('weir-theme') || theme; } catch (e) { /* a page from a file may have no storage */ }
  if (!themes.includes(theme)) theme = 'auto';
  paint(theme);
  button.hidden = false;
  button.addEventListener('click', () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    paint(theme);
    try { localStorage.setItem('weir-theme', theme); } catch (e) { /* see above */ }
  });

  const data = JSON.parse(document.getElementById('data').textContent);
  const figure = document.getElementById('incident');
  const line = figure.querySelector('.pointer');
  const readout = document.getElementById('readout');
  const hint = readout.textContent;
  const state = (crashes, at) => {
    for (const [resets, refuses, back] of crashes) {
      if (at >= resets && at < refuses) return 'resets';
      if (at >= refuses && at < back) return 'down';
    }
    return 'up';
  };
  const leave = () => {
    line.hidden = true;
    readout.textContent = hint;
  };
  figure.addEventListener('pointermove', (event) => {
    const svg = [...figure.querySelectorAll('svg')].find((one) => one.getBoundingClientRect().width > 0);
    if (!svg) return;
    const box = svg.getBoundingClientRect();
    const scale = box.width / svg.viewBox.baseVal.width;
    const left = Number(svg.dataset.left) * scale;
    const span = Number(svg.dataset.span) * scale;
    const share = (event.clientX - box.left - left) / span;
    if (share < 0 || share >= 1) return leave();
    const at = share * data.length;
    const column = Math.floor(at / data.column);
    const frame = figure.getBoundingClientRect();
    line.hidden = false;
    line.style.left = (event.clientX - frame.left - figure.clientLeft) + 'px';
    line.style.top = (box.top - frame.top) + 'px';
    line.style.height = (box.height - 20 * scale) + 'px';
    const seen = data.bands.map((band) => {
      const [answered, failed] = band.columns[column] || [0, 0];
      return band.name + ': ' + failed + ' of ' + (answered + failed) + ' failed';
    });
    const replicas = data.replicas.map((crashes) => state(crashes, at)).join(', ');
    readout.textContent = (at / 1000).toFixed(1) + ' s · replicas ' + replicas + ' · ' + seen.join(' · ');
  });
  figure.addEventListener('pointerleave', leave);
})();
