//! Notifications to a supervisor: systemd, for a unit with `Type=notify`.

/// Tells the supervisor that the host is ready: its sink is open, and it listens. Does nothing
/// without a supervisor.
pub fn notify_ready() {
    notify("READY=1");
}

/// Tells the supervisor that the host is stopping in order.
pub fn notify_stopping() {
    notify("STOPPING=1");
}

#[cfg(target_os = "linux")]
fn notify(state: &str) {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    // A name that begins with `@` is an abstract socket.
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&socket),
    };
    let sent = address
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = sent {
        tracing::warn!(%error, state, "cannot notify the supervisor (NOTIFY_SOCKET)");
    }
}

#[cfg(not(target_os = "linux"))]
fn notify(_: &str) {}
