#!/usr/bin/env bash
# Installs the CUDA compilers into a folder of their own (default: .cuda in the repository) with python3 and pip; no GPU and no driver is needed.
#   scripts/cuda-toolchain.sh [FOLDER]            install, or return at once when it is there
#   scripts/cuda-toolchain.sh --check [FOLDER]    install, then compile a tiny kernel for every architecture
# nvcc 13.0 compiles for sm_75 and newer. V100 (sm_70) was dropped by it: its kernels are compiled by NVRTC 12.9. Versions are pinned, for equal code everywhere.
set -euo pipefail

check=false
if [ "${1:-}" = --check ]; then check=true; shift; fi
root=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-$root/.cuda}
packages="nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85
nvidia-cuda-cuobjdump==13.2.51 nvidia-cuda-nvdisasm==13.2.51
nvidia-cuda-nvrtc-cu12==12.9.86 nvidia-cuda-runtime-cu12==12.9.79 nvidia-cuda-nvcc-cu12==12.9.86 nvidia-cuda-cccl-cu12==12.9.27"

if [ "$(cat "$folder/stamp" 2>/dev/null || true)" != "$packages" ]; then
  rm -rf "$folder"
  python3 -m venv "$folder"
  # shellcheck disable=SC2086 -- a list of words
  "$folder/bin/pip" install --quiet --disable-pip-version-check --no-deps $packages
  printf '%s\n' "$packages" >"$folder/stamp"
fi
nvidia=$(echo "$folder"/lib/python*/site-packages/nvidia)
nvcc=$nvidia/cu13/bin/nvcc
nvrtc=$(echo "$nvidia"/cuda_nvrtc/lib/libnvrtc.so.12)
echo "nvcc:  $("$nvcc" --version | sed -n 's/.*release \(.*\)/\1/p') ($nvcc)"
echo "nvrtc: 12.9.86 ($nvrtc)"

$check || exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/tiny.cu" <<'CU'
struct Args { const float* x; float* y; int n; };
extern "C" __global__ void tiny(const __grid_constant__ Args a) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < a.n) a.y[i] = 2 * a.x[i];
}
CU
for architecture in 75 80 86 89 90 100 120; do
  "$nvcc" -cubin -std=c++17 -arch=sm_$architecture -o "$work/tiny.$architecture.cubin" "$work/tiny.cu"
  "$nvidia/cu13/bin/cuobjdump" -sass "$work/tiny.$architecture.cubin" >"$work/sass" && grep -q STG "$work/sass" || { echo "sm_$architecture: no store in the machine code" >&2; exit 1; }
done
"$folder/bin/python" - "$nvrtc" "$work/tiny.cu" "$nvidia" <<'PY'
import ctypes, sys
nvrtc = ctypes.CDLL(sys.argv[1])
program = ctypes.c_void_p()
def call(name, *arguments):
    code = getattr(nvrtc, name)(*arguments)
    if code != 0: raise SystemExit(f'{name} returned {code}: {log()}')
def log():
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, text)
    return text.value.decode()
call('nvrtcCreateProgram', ctypes.byref(program), open(sys.argv[2], 'rb').read(), b'tiny.cu', 0, None, None)
options = [b'-arch=sm_70', b'-std=c++17', b'--ptxas-options=-v'] + [f'-I{sys.argv[3]}/{part}/include'.encode() for part in ('cuda_runtime', 'cuda_nvcc', 'cuda_cccl')]
call('nvrtcCompileProgram', program, len(options), (ctypes.c_char_p * len(options))(*options))
size = ctypes.c_size_t()
call('nvrtcGetCUBINSize', program, ctypes.byref(size))
cubin = ctypes.create_string_buffer(size.value)
call('nvrtcGetCUBIN', program, cubin)
if cubin.raw[:4] != b'\x7fELF' or 'registers' not in log(): raise SystemExit('NVRTC gave no cubin for sm_70')
PY
echo "compiled a kernel for sm_70 (NVRTC) and sm_75 to sm_120 (nvcc)"
