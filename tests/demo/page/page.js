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
  const moment = document.getElementById('moment');
  const readout = document.getElementById('readout');
  const state = (crashes, at) => {
    for (const [resets, refuses, back] of crashes) {
      if (at >= resets && at < refuses) return 'resetting';
      if (at >= refuses && at < back) return 'down';
    }
    return 'up';
  };
  // Where time begins and how wide it is, on the screen, in the one of the pictures that is shown.
  const frame = () => {
    const svg = [...figure.querySelectorAll('svg')].find((one) => one.getBoundingClientRect().width > 0);
    if (!svg) return null;
    const box = svg.getBoundingClientRect();
    const scale = box.width / svg.viewBox.baseVal.width;
    return { box, scale, left: Number(svg.dataset.left) * scale, span: Number(svg.dataset.span) * scale };
  };
  const show = () => {
    const at = Number(moment.value);
    const place = frame();
    if (!place) return;
    const outer = figure.getBoundingClientRect();
    const inside = place.box.left - outer.left - figure.clientLeft;
    line.hidden = false;
    line.style.left = (inside + place.left + place.span * at / data.length) + 'px';
    line.style.top = (place.box.top - outer.top) + 'px';
    line.style.height = (place.box.height - 20 * place.scale) + 'px';
    const seen = data.bands.map((band) => {
      const [answered, failed] = band.columns[Math.floor(at / data.column)] || [0, 0];
      return band.name + ': ' + failed + ' of ' + (answered + failed) + ' failed';
    });
    const replicas = data.replicas.map((crashes) => state(crashes, at)).join(', ');
    readout.textContent = (at / 1000).toFixed(1) + ' s · replicas: ' + replicas + ' · ' + seen.join(' · ');
    moment.setAttribute('aria-valuetext', readout.textContent);
  };
  // The slider's handle is below the line.
  const align = () => {
    const place = frame();
    if (!place) return;
    const handle = 8;
    moment.style.marginLeft = (place.left - handle) + 'px';
    moment.style.width = (place.span + 2 * handle) + 'px';
    if (!line.hidden) show();
  };
  const point = (event) => {
    const place = frame();
    if (!place || event.target === moment) return;
    const share = (event.clientX - place.box.left - place.left) / place.span;
    if (share < 0 || share >= 1) return;
    moment.value = share * data.length;
    show();
  };
  moment.max = data.length - 1;
  moment.step = data.column / 5;
  moment.hidden = false;
  moment.addEventListener('input', show);
  figure.addEventListener('pointermove', point);
  figure.addEventListener('pointerdown', point);
  addEventListener('resize', align);
  align();
})();
