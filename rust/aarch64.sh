#!/usr/bin/env bash
# The kernels of aarch64, cross-compiled and run under emulation: what `make test-neon` does.
#
# Needs Debian's packages qemu-user and gcc-aarch64-linux-gnu, and Rust's standard library for the target. Where
# `rustup target add` has not brought that, Debian's own compiler and library are unpacked below target/: installed,
# they would stand in the way of another Rust.
set -euo pipefail
cd "$(dirname "$0")/.."
target=aarch64-unknown-linux-gnu
build=$PWD/target/aarch64
debian=$build/debian

missing=()
command -v qemu-aarch64 > /dev/null || missing+=(qemu-user)
command -v aarch64-linux-gnu-gcc > /dev/null || missing+=(gcc-aarch64-linux-gnu)
[[ -e /usr/aarch64-linux-gnu/lib/libc.so.6 ]] || missing+=(libc6-dev-arm64-cross)
if ((${#missing[@]})); then
  echo "make test-neon needs: apt-get install ${missing[*]}" >&2
  exit 1
fi

# The first package that $1 depends on and whose name begins with $2.
dependency() {
  apt-cache depends "$1" | sed -n "s/^ *Depends: \($2[^ ]*\)$/\1/p" | head -n 1
}

unpack_debian() {
  command -v apt-get > /dev/null || {
    echo "make test-neon needs: rustup target add $target" >&2
    exit 1
  }
  local part=$debian.part library lists
  rm -rf "$part"
  mkdir -p "$part"/{debs,root,lists/partial,cache/archives/partial}
  library=$(dependency libstd-rust-web-dev libstd-rust-web-)
  # Lists of the other architecture's packages, kept apart from the system's.
  lists=(-o "Dir::State::lists=$part/lists" -o "Dir::Cache=$part/cache" -o APT::Architecture=arm64
    -o APT::Architectures::=arm64 -o APT::Sandbox::User=root)
  (
    cd "$part/debs"
    apt-get download -q -o APT::Sandbox::User=root rustc-web libstd-rust-web-dev "$library" \
      "$(dependency "$library" libllvm)"
    apt-get update -q "${lists[@]}"
    apt-get download -q "${lists[@]}" libstd-rust-web-dev
    for package in *.deb; do dpkg -x "$package" ../root; done
  )
  rm -rf "$debian"
  mv "$part/root" "$debian"
  rm -rf "$part"
}

if [[ ! -d $(rustc --print target-libdir --target $target) ]]; then
  [[ -x $debian/usr/bin/rustc ]] || unpack_debian
  export RUSTC=$debian/usr/bin/rustc
  LD_LIBRARY_PATH=$(dirname "$debian"/usr/lib/*/librustc_driver-*.so)
  export LD_LIBRARY_PATH
fi

export CARGO_TARGET_DIR=$build
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=qemu-aarch64
export QEMU_LD_PREFIX=/usr/aarch64-linux-gnu

# A program under emulation cannot start another, so the choice of the kernel is tested from here.
tests() {
  cargo test -p lss-core --target $target "$@" --skip the_environment_chooses_the_kernel
}
chosen() {
  LSS_SIMD=$1 LSS_EXPECT_KERNEL=$2 tests --test kernels -- --exact the_kernel_is_the_one_asked_for
}

# CPUs with and without dot products of bytes.
export QEMU_CPU
for QEMU_CPU in max cortex-a72; do
  tests --test kernels --test projection --test rows --test sketch --test columns --test topk --test exact --test teacher --
  chosen scalar scalar
  chosen neon neon
  case $QEMU_CPU in
    max) chosen dotprod dotprod && chosen "" dotprod ;;
    *) chosen dotprod error && chosen "" neon ;;
  esac
done
QEMU_CPU=max
for kernel in neon dotprod; do
  LSS_SIMD=$kernel tests --test search --test builder --test regions --test trust --test hash --
done
