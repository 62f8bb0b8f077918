//! Container images without a registry: Debian's packages and our own binaries, written as docker
//! archives and unpacked once into a containerd store that every site starts from.

mod app;
mod archive;
mod debian;
mod template;

pub(crate) use app::{AppImage, app_binary, build_app};
pub(crate) use debian::prepare as prepare_debian;
pub(crate) use template::{BaseImages, import, prepare, seed, wait_for_socket};

/// The image of every pod's sandbox.
pub(crate) const PAUSE: &str = "docker.io/library/pause:1";
