//! The command line, `weir`, as its users run it.

mod chart;
mod check;
#[path = "../crash_loops/mod.rs"]
mod crash_loops;
mod envoy;
mod explain;
mod generate;
mod lint;
mod manual;
mod replay;
mod shipped;
#[path = "../support/mod.rs"]
#[allow(unused_imports)]
mod support;
mod top;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

/// What a run of the program came to.
#[derive(Debug)]
pub struct Run {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Run {
    /// Whether a line of its output begins with these words, however far apart, and holds nothing else.
    pub fn has_row(&self, words: &str) -> bool {
        let wanted: Vec<&str> = words.split_whitespace().collect();
        self.out.lines().any(|line| line.split_whitespace().eq(wanted.iter().copied()))
    }

    /// Its output without line breaks and repeated blanks.
    pub fn flowing(&self) -> String {
        self.out.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// Runs `weir` in the root of the repository, with this as its standard input.
pub fn weir(arguments: &[&str], input: &[u8]) -> Run {
    let mut child = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("weir starts");
    let mut stdin = child.stdin.take().expect("its input");
    let input = input.to_vec();
    // It may end before it has read all.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("weir ends");
    writer.join().expect("its input was written");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("weir writes UTF-8");
    Run { status: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
}

/// Takes a client in, and what it asks for: the first line of its request.
pub fn asked(listener: &TcpListener) -> (TcpStream, String) {
    let (mut stream, _) = listener.accept().expect("a client");
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a request");
        request.extend(byte);
    }
    let request = String::from_utf8(request).expect("UTF-8");
    (stream, request.lines().next().unwrap_or_default().to_owned())
}
