// Which cases of ewe-cases execute the kernels on an emulated card, for the scripts that prove things of the kernels by them.
import { spawnSync } from 'node:child_process'
import { root } from './sources.mjs'

/** Those of the ops, by the beginnings of their names; what takes longest comes first. */
export const opsPrefixes = ['attention/', 'block/', 'sample/', 'linear/', 'logProbs/', 'norm/', 'embed/']

/** Few of them, which take each kernel through its loops and its edges in as little as will do. float16 and bfloat16 are the same templates. */
export function fewCases(path) {
  const type = path >= 800 ? 'bfloat16' : 'float16'
  return [
    `attention/${type} head 16`,
    `attention/${type} shared key-value heads`,
    `attention/${type} two splits, the last rows`,
    `block/${type} in, few rows`,
    `block/${type} in, ragged rows`,
    `block/${type} in, only some of 4 rows live`,
    `block/${type} in, a decode row, one norm`,
    `block/${type} out 7 rows`,
    `block/${type} out 40 rows`,
    'block/int8 in, few rows',
    'block/int8 out 40 rows',
    `embed/${type} width 37`,
    'embed/a token outside the table is refused, or gives a row of NaN',
    `linear/${type} 4x80x64`,
    `linear/${type} 13x80x64`,
    `linear/${type} 3x5000x32 several tiles a block`,
    `linear/${type} 3x200x5 ragged silu`,
    `linear/${type} 7x33x51 ragged odd k gelu tanh`,
    `linear/${type} 100x65x127 ragged`,
    `linear/${type} 101x144x768 two row blocks`,
    `linear/${type} 9x48x2050 several k blocks relu`,
    `linear/${type} 20x30x64 residual in place`,
    'linear/int8 1x80x64',
    'linear/int8 9x48x2050 several k blocks relu',
    'linear/int8 100x65x127 ragged',
    `norm/${type} width 33`,
    `norm/${type} two norms of one read`,
    'sample/rows of one request draw from one row of logits',
    'sample/the results of a row do not depend on its place in the batch',
    'sample/greedy takes the lowest id among equals, after the repetition penalty',
    'sample/settings and ids out of range are refused',
    'logProbs/the lower id comes first among equals, and a row may ask for no id',
  ]
}

/** The names of all cases of the ops; a name of fewCases that is not among them is an error. */
export function listCases(program, paths) {
  const { stdout, stderr } = spawnSync(program, ['--list'], { cwd: root, encoding: 'utf8' })
  const names = (stdout ?? '').split('\n').filter((name) => opsPrefixes.some((prefix) => name.startsWith(prefix)))
  const unknown = paths.flatMap(fewCases).filter((name) => !names.includes(name))
  if (unknown.length > 0) throw new Error(`${program} has no case ${unknown.join(', ')}\n${stderr ?? ''}`)
  return names
}
