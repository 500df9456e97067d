#!/usr/bin/env bash
# Run search and building once more on each kernel that this machine has; say which it lacks.
set -euo pipefail
cd "$(dirname "$0")"

chosen() {
  LSS_SIMD=$1 LSS_EXPECT_KERNEL=$2 cargo test --quiet -p lss-core --test kernels -- --exact the_kernel_is_the_one_asked_for
}

for kernel in scalar avx2 avx512 vbmi amx neon dotprod; do
  if chosen $kernel error > /dev/null 2>&1; then
    echo "LSS_SIMD=$kernel: skipped, this machine lacks what it needs"
  else
    chosen $kernel $kernel
    echo "LSS_SIMD=$kernel"
    LSS_SIMD=$kernel cargo test --quiet -p lss-core --test search --test builder --test exact --test regions
  fi
done
