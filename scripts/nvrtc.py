# Compiles one kernel source with NVRTC, for the architectures that nvcc no longer knows (V100's sm_70). Called by kernels.mjs.
#   python3 nvrtc.py LIBRARY SOURCE PTX CUBIN OPTION...      writes both files, prints the compiler's log
#   python3 nvrtc.py LIBRARY                                 prints the architectures it compiles for, one a line
import ctypes
import sys

nvrtc = ctypes.CDLL(sys.argv[1])
nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p


def check(code, call, log=''):
    if code != 0:
        raise SystemExit(f'{log}{call}: {nvrtc.nvrtcGetErrorString(code).decode()}')


if len(sys.argv) == 2:
    count = ctypes.c_int()
    check(nvrtc.nvrtcGetNumSupportedArchs(ctypes.byref(count)), 'nvrtcGetNumSupportedArchs')
    architectures = (ctypes.c_int * count.value)()
    check(nvrtc.nvrtcGetSupportedArchs(architectures), 'nvrtcGetSupportedArchs')
    print('\n'.join(map(str, architectures)))
    raise SystemExit

source, ptx, cubin = sys.argv[2:5]
options = [option.encode() for option in sys.argv[5:]]
program = ctypes.c_void_p()


def take(what):
    size = ctypes.c_size_t()
    check(getattr(nvrtc, f'nvrtcGet{what}Size')(program, ctypes.byref(size)), f'nvrtcGet{what}Size')
    data = ctypes.create_string_buffer(size.value)
    check(getattr(nvrtc, f'nvrtcGet{what}')(program, data), f'nvrtcGet{what}')
    return data.raw


with open(source, 'rb') as file:
    text = file.read()
check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, source.encode(), 0, None, None), 'nvrtcCreateProgram')
code = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
log = take('ProgramLog').rstrip(b'\0').decode()
check(code, source, log)
print(log)
for path, data in ((ptx, take('PTX').rstrip(b'\0')), (cubin, take('CUBIN'))):
    with open(path, 'wb') as file:
        file.write(data)
