#!/usr/bin/env bash
# usage: build.sh LIBTORCH OUT   Makes the folder OUT: libtorch's libraries with the fake in the place of libtorch_cuda.so, a
# libcuda.so.1 that says there is a driver, and a libnccl.so.2 between the cards. Then any program that links libtorch runs with
# LD_LIBRARY_PATH=OUT --device cuda.
set -eu
torch=$(realpath "$1"); out=$2; here=$(dirname "$(realpath "$0")")
mkdir -p "$out"
for library in "$torch"/lib/*.so*; do
  name=$(basename "$library")
  case $name in libtorch_cuda*|libc10_cuda*|libtorch_python*|libtorch_nvshmem*) ;; *) ln -f "$library" "$out/$name" 2>/dev/null || cp -u "$library" "$out/$name";; esac
done
for library in "$torch"/../nvidia/*/lib/*.so*; do
  [ -e "$library" ] && ln -sf "$(realpath "$library")" "$out/$(basename "$library")"
done
c++ -shared -fPIC -O1 -std=c++20 -D_GLIBCXX_USE_CXX11_ABI=1 -I"$torch/include" -I"$torch/include/torch/csrc/api/include" \
  "$here/fake_cuda.cpp" -o "$out/libtorch_cuda.so" -L"$out" -ltorch_cpu -lc10 -Wl,-rpath,'$ORIGIN'
c++ -shared -fPIC -O1 -std=c++20 "$here/nccl.cpp" -o "$out/libnccl.so.2"
cc -shared -fPIC -O1 "$here/driver.c" -o "$out/libcuda.so.1"
echo "$out"
