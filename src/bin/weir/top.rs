//! `weir top URL...`: what Weir does now, in one Envoy or several, from their metrics.

mod metrics;
mod view;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use console::Term;

use metrics::Samples;
use view::View;

/// Shows what Weir does now, from the metrics of running Envoys.
///
/// Cluster by cluster: requests, attempts and failures a second, retries and what the budget has left, how many hosts are out and
/// for what, circuits, and incidents.
///
/// URL is the admin interface of an Envoy, such as http://127.0.0.1:9901, or the whole address of its metrics. Several are added up.
/// In Kubernetes, forward the port: kubectl port-forward deploy/storefront 15000. On a terminal it goes on until Ctrl-C; elsewhere,
/// and with --once, it looks twice and ends. Exit status: 0; 1 if no Envoy answers; 2 if the command line is wrong.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kubectl port-forward deploy/storefront 15000 & weir top http://127.0.0.1:15000
  weir top --once http://127.0.0.1:9901 http://127.0.0.1:9902")]
pub struct Arguments {
    /// An Envoy's admin interface
    #[arg(value_name = "URL", required = true)]
    urls: Vec<String>,
    /// Seconds between two looks
    #[arg(short, long, value_name = "SECONDS", default_value = "2", value_parser = interval)]
    interval: Duration,
    /// Look twice, print, and end
    #[arg(long)]
    once: bool,
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=3_600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| format!("{text:?} is not a number of seconds from 0.1 to 3600"))
}

/// Shows the metrics, once or until the program is stopped. Returns the exit status of `weir top`.
pub fn run(arguments: &Arguments) -> ExitCode {
    let mut term = Term::stdout();
    let once = arguments.once || !term.is_term();
    let mut view = View::default();
    let mut drawn = 0;
    loop {
        let looked = Instant::now();
        let answers: Vec<Result<Samples, String>> = arguments.urls.iter().map(|url| look(url)).collect();
        let rated = view.update(&answers, looked);
        if once && answers.iter().all(Result::is_err) {
            answers.iter().filter_map(|answer| answer.as_ref().err()).for_each(|error| eprintln!("weir: {error}"));
            return ExitCode::FAILURE;
        }
        if once && rated {
            crate::print(&view.text(&arguments.urls, usize::MAX));
            return ExitCode::SUCCESS;
        }
        if !once {
            let text = fitted(&view.text(&arguments.urls, usize::from(term.size().1)), &term);
            // The picture before is overwritten, and the last one stays when the program is stopped.
            let written = term.clear_last_lines(drawn).and_then(|()| term.write_all(text.as_bytes()));
            if written.is_err() {
                return ExitCode::SUCCESS;
            }
            drawn = text.lines().count();
        }
        std::thread::sleep(arguments.interval.saturating_sub(looked.elapsed()));
    }
}

/// As much as the terminal has room for.
fn fitted(text: &str, term: &Term) -> String {
    let (height, width) = term.size();
    let lines = text.lines().take(usize::from(height).saturating_sub(1).max(1));
    lines
        .flat_map(|line| [console::truncate_str(line, usize::from(width), "…").into_owned(), "\n".to_owned()])
        .collect()
}

fn look(url: &str) -> Result<Samples, String> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let is_root = rest.trim_end_matches('/').find('/').is_none();
    let url = if is_root { format!("{}/stats/prometheus", url.trim_end_matches('/')) } else { url.to_owned() };
    let body = crate::http::get(&url)?;
    Ok(metrics::read(&String::from_utf8_lossy(&body)))
}
