// The emulator: what the functions of the seam do, the emulated driver, and that each bug planted in a kernel is noticed by what is said to notice
// it. The programs are C++ (test/emulator/), built here: plain for every path, and for path 800 with ThreadSanitizer, and with AddressSanitizer and
// UndefinedBehaviorSanitizer.
import { spawnSync } from 'node:child_process'
import { test } from 'uvu'
import * as assert from 'uvu/assert'

type Kind = 'plain' | 'thread' | 'address'

function run(file: string, args: string[], env: Record<string, string> = {}): { status: number | null; output: string } {
  const { status, signal, stdout, stderr } = spawnSync(file, args, { encoding: 'utf8', timeout: 120_000, env: { ...process.env, ...env } })
  return { status, output: `${stdout}${stderr}${signal === null ? '' : `ended by ${signal}`}` }
}

function build(program: string, kind: Kind, path: number): string {
  const folder = process.env['EWE_EMULATOR_DIR'] ?? 'build-emulator'
  const args = ['--folder', folder, '--kind', kind, '--path', String(path), '--program', `tests/${path}/${program}`]
  const { status, output } = run(process.execPath, ['scripts/emulator.mjs', ...args])
  if (status !== 0) throw new Error(output)
  return output.trim().split('\n').at(-1) ?? ''
}

// ---- The functions of the seam, and the driver

for (const path of [700, 750, 800, 900]) {
  const program = build('twins', 'plain', path)
  for (const name of run(program, []).output.trim().split('\n')) {
    test(`path ${path}: ${name}`, () => {
      for (const settings of ['', 'schedule=lifo,copies=eager', 'schedule=random,seed=5,copies=coin', 'schedule=prio,copies=coin,workers=2,strict']) {
        const { status, output } = run(program, [name, settings])
        assert.is(status, 0, `${settings}: ${output}`)
      }
    })
  }
}

const driver = build('driver', 'plain', 800)
for (const name of run(driver, []).output.trim().split('\n')) {
  test(name, () => {
    const { status, output } = run(driver, [name])
    assert.is(status, 0, output)
  })
}

// ---- Planted bugs

const programs: Record<Kind, string> = {
  plain: build('planted', 'plain', 800),
  thread: build('planted', 'thread', 800),
  address: build('planted', 'address', 800),
}

function runPlanted(kind: Kind, kernel: string, fault: string, ...settings: string[]): string {
  return run(programs[kind], [kernel, fault, ...settings], { TSAN_OPTIONS: 'halt_on_error=1' }).output
}

const schedules = ['fifo', 'lifo', 'random', 'prio']
const everyWay = schedules.flatMap((schedule) => ['lazy', 'eager', 'coin'].map((copies) => `schedule=${schedule},copies=${copies}`))
const severalWays = ['schedule=fifo,copies=lazy', 'schedule=prio,copies=coin,workers=2', 'schedule=random,copies=eager,workers=2']
const kernels = ['gemm', 'reduce', 'attend', 'select', 'warp', 'blocks', 'meet', 'address']
for (const kernel of kernels) {
  test(`no alarm: the ${kernel} kernel without a fault, in every schedule and under the sanitizers`, () => {
    const every = everyWay.flatMap((way) => [1, 2, 3].map((seed) => `${way},seed=${seed},strict`))
    const ways = { plain: every, thread: severalWays, address: severalWays }
    for (const kind of ['plain', 'thread', 'address'] as const) {
      const output = runPlanted(kind, kernel, 'kNone', ...ways[kind])
      assert.is(output.match(/^right$/gm)?.length, ways[kind].length, `${kind}: ${output}`)
      assert.not.match(output, /Sanitizer|runtime error/, kind)
    }
  })
}

const wrong = /^wrong/m
const race = /ThreadSanitizer: data race[\s\S]*planted\.cu:\d+/
const fails = (text: string) => new RegExp(`^failed: .*${text.replace(/[()+?.]/g, '\\$&')}`, 'm')

interface Noticed {
  kind: Kind
  settings: string
  message: RegExp
}
const plain = (settings: string, message: RegExp): Noticed => ({ kind: 'plain', settings, message })
const thread = (settings: string, message: RegExp): Noticed => ({ kind: 'thread', settings, message })
const address = (settings: string, message: RegExp): Noticed => ({ kind: 'address', settings, message })

/** Bug, kernel, fault; who notices; and settings of the plain build that do not notice, so that the table stays true. */
const planted: [string, string, string, Noticed[], string[]?][] = [
  [
    'a missing barrier at the end of a GEMM loop', 'gemm', 'kNoBarrierAfterUse',
    [
      plain('schedule=lifo,copies=eager', wrong),
      plain('schedule=prio,copies=coin', wrong),
      thread('copies=eager', race),
    ], ['schedule=fifo,copies=eager', 'schedule=prio,copies=lazy'],
  ],
  ['a wait without a barrier behind it', 'gemm', 'kNoBarrierAfterWait', [plain('schedule=fifo', wrong), thread('', race)]],
  [
    'a missing wait for asynchronous copies', 'gemm', 'kNoWait',
    [plain('copies=lazy', wrong), plain('copies=coin', wrong), thread('copies=eager', race)], ['copies=eager'],
  ],
  [
    'a missing commit of asynchronous copies', 'gemm', 'kNoCommit',
    [
      plain('copies=eager', fails('asynchronous copies that it did not wait for')),
      plain('copies=lazy', fails('asynchronous copies that it did not wait for')),
    ],
  ],
  [
    'a missing barrier at the end of a block reduction', 'reduce', 'kNoTrailingBarrier',
    [plain('schedule=lifo', wrong), plain('schedule=prio', wrong), thread('', race)], ['schedule=fifo', 'schedule=random'],
  ],
  [
    'a missing barrier within a block reduction', 'reduce', 'kNoLeadingBarrier',
    [plain('schedule=fifo', wrong), plain('schedule=prio', wrong), thread('', race)], ['schedule=lifo'],
  ],
  [
    'a missing barrier at the end of the loop of flash attention', 'attend', 'kNoEndBarrier',
    [plain('schedule=lifo,copies=eager', wrong), plain('schedule=prio,copies=coin', wrong), thread('', race)],
  ],
  [
    'a missing barrier before the answer of a top-p selection', 'select', 'kNoBarrierBeforeAnswer',
    [plain('schedule=lifo', wrong), plain('schedule=random', wrong), thread('', race)], ['schedule=fifo'],
  ],
  [
    'a missing barrier after the bins of a top-p selection are cleared', 'select', 'kNoBarrierAfterClear',
    [plain('schedule=prio', wrong), thread('', race)],
  ],
  [
    'a warp that counts on lock-step', 'warp', 'kLockStep',
    [plain('schedule=fifo', wrong), plain('schedule=random', wrong), thread('', race)], ['schedule=lifo'],
  ],
  ['blocks that write the same word', 'blocks', 'kSameWord', [thread('workers=2', race)]],
  ['a missing fence before the last block reads', 'blocks', 'kNoFence', [thread('workers=2', race)], ['schedule=prio,workers=2']],

  ['a lane that does not come', 'meet', 'kAbsentLane', [plain('', fails('threads wait for ever: threads 0 to 2 in shuffleXor at planted.cu:'))]],
  [
    'barriers of two branches', 'meet', 'kDivergence',
    [plain('', fails('barrier divergence: thread 32 is at this barrier, thread 0 at the one of planted.cu:'))],
  ],
  [
    'a warp that ends early', 'meet', 'kEarlyExit',
    [
      plain('strict', fails('thread 32 ended while thread 0 waits in syncBlock')),
      plain('strict,schedule=lifo', fails('32 threads have ended before this barrier')),
      plain('', fails('threads wait for ever: threads 0 to 31 in syncSome 1')),
    ],
  ],
  [
    'a named barrier that too few come to', 'meet', 'kTooFewForNamed',
    [plain('', fails('threads wait for ever: threads 0 to 31 in syncSome 1 at planted.cu:'))],
  ],
  [
    'lanes at two instructions', 'meet', 'kMixedInstructions',
    [plain('', fails('the lanes of a warp diverge: thread 7 is at ballot here, thread 0 at shuffleXor of planted.cu:'))],
  ],

  ['a read just past the end of shared memory', 'address', 'kPastShared', [address('', /AddressSanitizer: use-after-poison[\s\S]*addresses\.cu/)]],
  ['a read far past the end of shared memory', 'address', 'kFarPastShared', [plain('', fails("in the block's 288 bytes of shared memory"))]],
  [
    'an index past an array within shared memory', 'address', 'kPastMember',
    [address('', /addresses\.cu:\d+:\d+: runtime error: index 16 out of bounds/)],
  ],
  ['a read of unwritten shared memory', 'address', 'kUnwrittenShared', [plain('', /^wrong: -?nan/m)]],
  ['a read just past the end of device memory', 'address', 'kPastGlobal', [address('', /AddressSanitizer: use-after-poison[\s\S]*addresses\.cu/)]],
  [
    'a write just past the end of device memory', 'address', 'kWritePastGlobal',
    [plain('', fails('device memory was written outside an allocation of 288 bytes, at offset 288')), address('', /AddressSanitizer/)],
  ],
  ['a read far past the end of device memory', 'address', 'kFarPastGlobal', [plain('', fails('of an allocation of 288 bytes'))]],
  [
    'an asynchronous copy from past the end of device memory', 'address', 'kCopyPastGlobal',
    [plain('', fails('copyAsync16: 16 bytes at offset 288 of an allocation of 288 bytes'))],
  ],
  [
    'an asynchronous copy to somewhere else than shared memory', 'address', 'kCopyOutsideShared',
    [plain('', fails("is not in the block's 288 bytes of shared memory"))],
  ],
  ['a misaligned load', 'address', 'kMisalignedLoad', [plain('', fails('loadConstant: the address'))]],
  [
    'a misaligned pointer', 'address', 'kMisalignedPointer',
    [address('', /addresses\.cu:\d+:\d+: runtime error: member access within misaligned address/)],
  ],
  [
    'a misaligned asynchronous copy', 'address', 'kMisalignedCopy',
    [plain('', fails('copyAsync16: the shared address (offset 8) is not aligned to 16 bytes'))],
  ],
  [
    'a misaligned matrix load', 'address', 'kMisalignedMatrix',
    [plain('', /^failed: .*loadMatrices: the shared address \(offset \d+\) is not aligned to 16 bytes/m)],
  ],
  [
    'a thread that ends before its asynchronous copies', 'address', 'kOutstandingCopy',
    [plain('copies=eager', fails('ended with 1 asynchronous copies that it did not wait for'))],
  ],
  ['a stack that is too small', 'address', 'kDeepStack', [plain('', fails("the thread's stack of 65536 bytes is too small"))]],
  ['a division by zero', 'address', 'kDivideByZero', [plain('', fails('an integer was divided by zero'))]],
]
for (const [bug, kernel, fault, noticed, missed = []] of planted) {
  test(`noticed: ${bug}`, () => {
    for (const { kind, settings, message } of noticed) assert.match(runPlanted(kind, kernel, fault, settings), message, `${kind} ${settings}`)
    for (const settings of missed) assert.match(runPlanted('plain', kernel, fault, settings), /^right$/m, `${settings} notices it by now`)
  })
}

test('bank conflicts of matrix loads are counted', () => {
  const pattern = /products (\d+), matrix loads (\d+), conflicts (\d+), copies (\d+)/
  const counts = (fault: string) => pattern.exec(runPlanted('plain', 'gemm', fault, ''))?.slice(1).map(Number)
  assert.equal(counts('kNone'), [80, 80, 0, 1280])
  // 64-byte rows unswizzled: the eight rows of a matrix lie on two places, four on each, so that each of the 4 matrices takes 3 passes more.
  assert.equal(counts('kNoSwizzle'), [80, 80, 80 * 4 * 3, 1280])
})

test.run()
