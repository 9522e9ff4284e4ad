//! HTTP/2 frame by frame, for a `GOAWAY` that no library would send.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Seen, Upstream};

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What to send when a request has arrived.
#[derive(Clone, Copy, Debug)]
pub enum Frame {
    /// `GOAWAY` that says that this request was not, and will not be, processed.
    GoAwayExcluding,
    /// `GOAWAY` that says that this request may be processed.
    GoAwayIncluding,
    /// A 200 without a body.
    Answer,
    /// Closes the connection.
    Close,
}

/// Sends `script`'s frames when the headers of a request arrive. Of the request only its place is recorded.
pub fn frames(script: impl Fn(&Seen) -> Vec<Frame> + Send + Sync + 'static) -> Upstream {
    let script = Arc::new(script);
    Upstream::serving(move |mut stream, connection, record| {
        let script = Arc::clone(&script);
        async move {
            if stream.read_exact(&mut [0; 24]).await.is_err() || !write(&mut stream, SETTINGS, 0, 0, &[]).await {
                return;
            }
            while let Some((kind, flags, id, payload)) = read(&mut stream).await {
                let going = match kind {
                    SETTINGS if flags & ACK == 0 => write(&mut stream, SETTINGS, ACK, 0, &[]).await,
                    PING if flags & ACK == 0 => write(&mut stream, PING, ACK, 0, &payload).await,
                    HEADERS => {
                        let request = record.note(Seen { connection, ..Seen::default() });
                        play(&mut stream, id, script(&request)).await
                    }
                    _ => true,
                };
                if !going {
                    return;
                }
            }
        }
    })
}

/// Returns whether the connection goes on.
async fn play(stream: &mut TcpStream, id: u32, script: Vec<Frame>) -> bool {
    for frame in script {
        let sent = match frame {
            // NO_ERROR, after the last stream that is processed.
            Frame::GoAwayExcluding => write(stream, GOAWAY, 0, 0, &go_away(id.saturating_sub(2))).await,
            Frame::GoAwayIncluding => write(stream, GOAWAY, 0, 0, &go_away(id)).await,
            // 0x88 is `:status: 200` in HPACK's static table.
            Frame::Answer => write(stream, HEADERS, END_STREAM | END_HEADERS, id, &[0x88]).await,
            Frame::Close => false,
        };
        if !sent {
            return false;
        }
    }
    true
}

fn go_away(last: u32) -> [u8; 8] {
    let mut payload = [0; 8];
    payload[..4].copy_from_slice(&last.to_be_bytes());
    payload
}

async fn write(stream: &mut TcpStream, kind: u8, flags: u8, id: u32, payload: &[u8]) -> bool {
    let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&id.to_be_bytes());
    frame.extend_from_slice(payload);
    stream.write_all(&frame).await.is_ok()
}

async fn read(stream: &mut TcpStream) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let [a, b, c, kind, flags, id @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    stream.read_exact(&mut payload).await.ok()?;
    Some((kind, flags, u32::from_be_bytes(id) & 0x7fff_ffff, payload))
}
