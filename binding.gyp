# The build without CMake: the CPU device and the host side of the CUDA device. scripts/build.mjs calls it and says where the result goes.
{
  'variables': {'cases%': 0},
  'target_defaults': {
    'default_configuration': 'Release',
    'include_dirs': ['native', '.'],
    'cflags': ['<!@(node scripts/sources.mjs flags)'],
    'ldflags': ['<!@(node scripts/sources.mjs link)'],
  },
  'targets': [
    {'target_name': 'cpu_plain', 'type': 'static_library', 'sources': ['<!@(node scripts/sources.mjs isa)'], 'defines': ['EWE_ISA=plain'],
     'cflags': ['<!@(node scripts/sources.mjs set plain)']},
    {'target_name': 'native', 'type': 'static_library', 'sources': ['<!@(node scripts/sources.mjs native)'], 'dependencies': ['cpu_plain'],
     'defines': ['EWE_KERNELS_HASH="<!(node scripts/sources.mjs kernels-hash)"'],
     'conditions': [['target_arch=="x64"', {'dependencies': ['cpu_avx2', 'cpu_avx512', 'cpu_avx512bf16']}]]},
  ],
  'conditions': [
    ['target_arch=="x64"', {'targets': [
      {'target_name': 'cpu_avx2', 'type': 'static_library', 'sources': ['<!@(node scripts/sources.mjs isa)'], 'defines': ['EWE_ISA=avx2'],
       'cflags': ['<!@(node scripts/sources.mjs set avx2)']},
      {'target_name': 'cpu_avx512', 'type': 'static_library', 'sources': ['<!@(node scripts/sources.mjs isa)'], 'defines': ['EWE_ISA=avx512'],
       'cflags': ['<!@(node scripts/sources.mjs set avx512)']},
      {'target_name': 'cpu_avx512bf16', 'type': 'static_library', 'sources': ['<!@(node scripts/sources.mjs isa)'], 'defines': ['EWE_ISA=avx512bf16'],
       'cflags': ['<!@(node scripts/sources.mjs set avx512bf16)']},
    ]}],
    ['cases==1', {'targets': [
      {'target_name': 'ewe-cases', 'type': 'executable', 'sources': ['<!@(node scripts/sources.mjs cases)'], 'dependencies': ['native'],
       'include_dirs': ['test/ops'], 'cflags': ['-O1']},
    ]}, {'targets': [
      {'target_name': 'ewe', 'type': 'loadable_module', 'sources': ['<!@(node scripts/sources.mjs addon)'], 'dependencies': ['native'],
       'include_dirs': ['<!@(node scripts/sources.mjs includes)'], 'defines': ['NAPI_VERSION=9', 'NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS', 'EWE_VERSION="<!(node scripts/sources.mjs version)"'],
       'ldflags': ['-Wl,-s', '-Wl,--version-script,<(module_root_dir)/native/napi/exports.map']},
    ]}],
  ],
}
