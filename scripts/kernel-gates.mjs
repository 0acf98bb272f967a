// node scripts/kernel-gates.mjs [--cases FILE]     what can be asked of the kernels without a card; compiles what changed first
//                               --update           writes kernels/budget.json and the tables of kernels/README.md anew
//                               --self-test        checks that each rule below turns red
//
//  - nothing spills, no kernel has local memory
//  - registers and static shared memory are those of kernels/budget.json, so that a change of them is part of a change's review
//  - the instructions that each kernel is built on stand in its machine code (sm_70: in its PTX), on each architecture that has them
//  - the launches that the plans come to fit their kernels: the threads are those that the kernel declares, and as many blocks as it declares fit on a
//    multiprocessor of every card family
//  - every kernel that a plan names for some card is in the pack, and every kernel of the pack is planned for some card
//  - the tables of kernels/README.md are current
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { architectureOf, gather, occupancy, occurrences, readLog, readPtx, readSass } from './kernel-facts.mjs'
import { emptySection, familyOf, kernelTable, predict, replaceSection, rooflineTable } from './kernel-tables.mjs'
import { KernelError, buildKernels, findCompilers, listObjects, packFile } from './kernels.mjs'
import { root } from './sources.mjs'

const budgetFile = join(root, 'kernels/budget.json')
const pageFile = join(root, 'kernels/README.md')

// What a kernel must be made of: by its name, from an architecture on (to another), an instruction at least once.
const products = /^(linear|block_in|attend_prefill|ceiling_multiply)_/ // products on the tensor cores
const tiles = /^(linear|block_in)_\w+_\d+x\d+$/ // both operands from shared memory
const streams = /^(linear_decode|block_in_decode|block_in_norm)_\w+_\d+$|^attend_decode_|^(norm|embed)_|^ceiling_(copy|read)$/ // bound by memory
const expectations = [
  { kernels: products, from: 70, to: 70, instruction: /^mma\.sync\.aligned\.m8n8k4\b/ },
  { kernels: products, from: 75, to: 75, instruction: /^HMMA\.1688\b/ },
  { kernels: products, from: 80, instruction: /^HMMA\.16816\b/ },
  { kernels: tiles, from: 70, to: 70, instruction: /^ld\.shared\b.*\.v4\b/ },
  { kernels: tiles, from: 75, instruction: /^LDS\b.*\.128\b/ },
  { kernels: tiles, from: 80, instruction: /^LDGSTS\b.*\.128\b/ },
  { kernels: /^attend_prefill_/, from: 75, instruction: /^LDSM\b/ },
  { kernels: /^attend_prefill_/, from: 80, instruction: /^LDGSTS\b.*\.128\b/ },
  { kernels: streams, from: 70, to: 70, instruction: /^ld\.global\b.*\.v4\b/ },
  { kernels: streams, from: 75, instruction: /^LDG\b.*\.128\b/ },
]
// Kernels that no model launches: they measure the card.
const unplanned = /^ceiling_/
// Kernels that take blocks of fewer threads too, where a row is short.
const shrinking = /^(sample|log_probs)$/

// ---- The rules: each returns its problems

/** What a rule finds in each kernel on each architecture. */
function each(kernels, find) {
  const one = (name) => ([architecture, fact]) => find(fact, `${name} for sm_${architecture}`, name, architecture)
  return [...kernels].flatMap(([name, { on }]) => [...on].flatMap(one(name)))
}

function spillProblems(kernels) {
  return each(kernels, (fact, where) => {
    const local = occurrences(fact.instructions, /^(LDL|STL)\b|^(ld|st)\.local\b/)
    return [
      ...(fact.spills > 0 ? [`${where}: ${fact.spills} bytes are spilled`] : []),
      ...(fact.stack > 0 ? [`${where}: ${fact.stack} bytes of stack`] : []),
      ...(local > 0 ? [`${where}: ${local} instructions on local memory`] : []),
    ]
  })
}

/** Kernel -> architecture -> [registers, static shared memory]. */
function budgetOf(kernels) {
  const one = ([name, { on }]) => [name, Object.fromEntries([...on].map(([architecture, fact]) => [architecture, [fact.registers, fact.shared]]))]
  return Object.fromEntries([...kernels].map(one))
}

function budgetProblems(kernels, budget) {
  const now = budgetOf(kernels)
  const problems = []
  const say = (entry) => (entry === undefined ? 'nothing' : `${entry[0]} registers and ${entry[1]} bytes of static shared memory`)
  for (const name of new Set([...Object.keys(now), ...Object.keys(budget)])) {
    for (const architecture of new Set([...Object.keys(now[name] ?? {}), ...Object.keys(budget[name] ?? {})])) {
      const [is, was] = [now[name]?.[architecture], budget[name]?.[architecture]]
      if (JSON.stringify(is) !== JSON.stringify(was)) problems.push(`${name} for sm_${architecture} has ${say(is)}, its budget is ${say(was)}`)
    }
  }
  return problems
}

function censusProblems(kernels, rules = expectations) {
  const problems = each(kernels, (fact, where, name, architecture) =>
    rules
      .filter((rule) => rule.kernels.test(name) && architecture >= rule.from && architecture <= (rule.to ?? 999))
      .filter((rule) => occurrences(fact.instructions, rule.instruction) === 0)
      .map((rule) => `${where} has no ${rule.instruction.source}`),
  )
  const idle = rules.filter((rule) => ![...kernels.keys()].some((name) => rule.kernels.test(name)))
  return [...problems, ...idle.map((rule) => `no kernel is named ${rule.kernels.source}: what should have ${rule.instruction.source}?`)]
}

function launchProblems(kernels, planned) {
  if (planned.launches.length === 0) return ['no launch is planned']
  const architectures = [...new Set([...kernels.values()].flatMap(({ on }) => [...on.keys()]))]
  const problems = planned.launches.flatMap((launch) => {
    const card = planned.cards.find((one) => one.name === launch.card)
    const fact = kernels.get(launch.kernel)?.on.get(architectureOf(card.computeCapability, architectures))
    if (fact === undefined) return [`${launch.kernel} is planned for ${launch.card} and was not compiled for it`]
    const { blocks, limit } = occupancy(card, { registers: fact.registers, threads: launch.threads, shared: launch.shared + fact.shared })
    const where = `${launch.kernel} on ${launch.card}, ${launch.threads} threads and ${launch.shared} bytes of shared memory`
    const sizes = shrinking.test(launch.kernel) ? launch.threads <= fact.threads : launch.threads === fact.threads
    return [
      ...(sizes ? [] : [`${where}: the kernel is made for ${fact.threads} threads`]),
      ...(blocks >= Math.max(1, fact.blocks) ? [] : [`${where}: ${blocks} blocks fit on a multiprocessor (${limit}), the kernel declares ${fact.blocks}`]),
    ]
  })
  const names = new Set(planned.launches.map((launch) => launch.kernel))
  const dead = [...kernels.keys()].filter((name) => !names.has(name) && !unplanned.test(name))
  return [...problems, ...dead.map((name) => `${name} is planned for no card`)]
}

/** The page with its generated sections written anew, and those it lacks. */
function rewritePage(page, sections) {
  const problems = []
  let written = page
  for (const [name, content] of Object.entries(sections)) {
    const next = replaceSection(written, name, content)
    if (next === undefined) problems.push(`kernels/README.md has no section "${name}"`)
    else written = next
  }
  return { written, problems }
}

function pageProblems(page, written) {
  return page === written ? [] : ['the tables of kernels/README.md are not current']
}

// ---- Running them

function readPlans(program, pack) {
  if (!existsSync(program)) throw new KernelError(`${program} is missing: node scripts/build.mjs --cases`)
  const { status, stdout, stderr } = spawnSync(program, ['--planned', pack], { encoding: 'utf8', maxBuffer: 1 << 30 })
  const problems = stderr.split('\n').filter((line) => line !== '')
  if (status !== 0 && problems.length === 0) problems.push(`${program} --planned ended with ${status}`)
  let planned = { cards: [], launches: [], steps: [] }
  if (stdout !== '') planned = JSON.parse(stdout)
  return { planned, problems }
}

function budgetText(budget) {
  const lines = Object.entries(budget).map(([name, on]) => `  ${JSON.stringify(name)}: ${JSON.stringify(on).replace(/([,:])(?=["[])/g, '$1 ')}`)
  return `{\n${lines.join(',\n')}\n}\n`
}

async function check(options) {
  const compilers = findCompilers()
  if (compilers === undefined) throw new KernelError('no nvcc in .cuda/ or on the PATH; scripts/cuda-toolchain.sh installs it')
  await buildKernels(compilers)
  const { objects, left } = listObjects(compilers)
  const { kernels: found, problems } = gather(objects, compilers.bin)
  const kernels = new Map([...found].sort(([a], [b]) => a.localeCompare(b, 'en', { numeric: true })))
  const { planned, problems: missing } = readPlans(options.cases, packFile())
  const architectures = [...new Set(objects.flatMap((object) => object.cubins.map((cubin) => cubin.architecture)))].sort((a, b) => a - b)
  const sections = { kernels: kernelTable(kernels, architectures, planned), roofline: rooflineTable(planned) }
  const page = readFileSync(pageFile, 'utf8')
  const { written, problems: sectionless } = rewritePage(page, sections)
  if (options.update) {
    writeFileSync(budgetFile, budgetText(budgetOf(kernels)))
    writeFileSync(pageFile, written)
  } else {
    const budget = existsSync(budgetFile) ? JSON.parse(readFileSync(budgetFile, 'utf8')) : {}
    const stale = [...budgetProblems(kernels, budget), ...pageProblems(page, written)]
    if (stale.length > 0) problems.push(...stale, 'if that is meant: node scripts/kernel-gates.mjs --update')
  }
  for (const architecture of left) problems.push(`no compiler here knows sm_${architecture}: run scripts/cuda-toolchain.sh`)
  problems.push(...sectionless, ...missing, ...spillProblems(kernels), ...censusProblems(kernels), ...launchProblems(kernels, planned))
  const count = [...kernels.values()].reduce((sum, { on }) => sum + on.size, 0)
  const cards = planned.cards.map((card) => card.name).join(' ')
  console.log(`${kernels.size} kernels, ${count} cubins of them (sm ${architectures.join(' ')}), ${planned.launches.length} launches on ${cards}`)
  if (count === 0) problems.push('no kernel was looked at')
  return problems
}

// ---- That each rule turns red

const sample = {
  log: `ptxas info    : Compiling entry function 'linear_f16_128x128' for 'sm_80'
ptxas info    : Function properties for linear_f16_128x128
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 130 registers, used 1 barriers, 1024 bytes smem, 384 bytes cmem[0]`,
  ptx: `.visible .entry linear_f16_128x128(
.maxntid 256, 1, 1
.minnctapersm 2
{
\tmma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32 {%f1}, {%r1}, {%r2}, {%f2};
\t@%p1 ld.global.nc.v4.u32 {%r1, %r2, %r3, %r4}, [%rd1];
}`,
  sass: `\t\tFunction : linear_f16_128x128
        /*0000*/                   HMMA.16816.F32 R4, R8, R12, R4 ;    /* 0x00 */
        /*0010*/              @!P0 LDG.E.128.CONSTANT R4, [R2.64] ;    /* 0x00 */
        /*1fe0*/                   STL [R1], R4 ;                      /* 0x00 */`,
}

/** What is wrong with an object of these. */
function gatherSample(ptx, log) {
  const folder = mkdtempSync(join(tmpdir(), 'kernel-gates-'))
  try {
    for (const [file, text] of Object.entries({ ptx, log })) writeFileSync(join(folder, file), text)
    const cubins = [{ architecture: 70, file: join(folder, 'cubin'), log: join(folder, 'log') }]
    return gather([{ stem: 'linear', ptx: join(folder, 'ptx'), hash: '', cubins }], folder).problems
  } finally {
    rmSync(folder, { recursive: true })
  }
}

function selfTest() {
  const problems = []
  const expectEqual = (what, is, wanted) => {
    if (JSON.stringify(is) !== JSON.stringify(wanted)) problems.push(`${what}: ${JSON.stringify(is)} instead of ${JSON.stringify(wanted)}`)
  }
  const name = 'linear_f16_128x128'
  expectEqual('the log', [...readLog(sample.log)], [[name, { registers: 130, stack: 16, spills: 20, shared: 1024 }]])
  const mma = 'mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32'
  expectEqual('the PTX', [...readPtx(sample.ptx)], [[name, { threads: 256, blocks: 2, instructions: { [mma]: 1, 'ld.global.nc.v4.u32': 1 } }]])
  expectEqual('the machine code', [...readSass(sample.sass)], [[name, { 'HMMA.16816.F32': 1, 'LDG.E.128.CONSTANT': 1, STL: 1 }]])
  // NVIDIA's own calculator gives these for an A100.
  const a100 = { name: 'A100', computeCapability: 80, sharedPerSm: 167936, registersPerSm: 65536, threadsPerSm: 2048, blocksPerSm: 32 }
  const held = (registers, threads, shared) => occupancy(a100, { registers, threads, shared }).blocks
  expectEqual('occupancy', [held(157, 128, 53248), held(96, 256, 0), held(32, 64, 0), held(168, 384, 0), held(255, 256, 166912)], [3, 2, 32, 1, 1])

  // 10 multiprocessors: 1 block has a tenth of the bandwidth, 15 blocks take the time of 20.
  const card = { sms: 10, computeCapability: 80, bandwidth: 1000, multiply: 1 }
  const op = (change) => ({ count: 2, bytes: 1e9, flops: 1e9, launches: [['first', 1], ['last', 10]], ...change })
  const seconds = (change) => predict(card, [op(change)]).predicted.toPrecision(5)
  expectEqual('the roofline', [seconds({}), seconds({ launches: [['only', 1]] }), seconds({ flops: 3e9, launches: [['only', 15]] })], ['0.0020100', '0.020005', '0.0080050'])
  expectEqual('its floor', [predict(card, [op({})]).floor, predict(card, [op({ flops: 3e9 })]).floor], [0.002, 0.006])
  const families = ['linear_i8_bf16_64x32', 'linear_decode_f16_8', 'attend_decode_grouped_d80_bf16', 'norm_f32', 'ceiling_copy'].map(familyOf)
  expectEqual('families', families, ['linear_64x32', 'linear_decode_8', 'attend_decode_grouped_d80', 'norm', 'ceiling_copy'])

  const sound = { registers: 128, stack: 0, spills: 0, shared: 0, threads: 256, blocks: 2, instructions: { 'HMMA.16816.F32': 1, 'LDG.E.128': 1 } }
  const of = (change, kernel = name) => new Map([[kernel, { stem: 'linear', on: new Map([[80, { ...sound, ...change }]]) }]])
  const rules = [{ kernels: /^linear_f16/, from: 80, instruction: /^HMMA\.16816\b/ }]
  const budget = budgetOf(of({}))
  const page = replaceSection(replaceSection(`# Kernels\n${emptySection('kernels')}\n`, 'kernels', 'old') ?? '', 'kernels', 'now') ?? ''
  const planned = (threads, shared, kernel = name) => ({ cards: [a100], launches: [{ card: 'A100', kernel, threads, shared }] })
  /** @type {[name: string, found: string[], expected: RegExp | undefined][]} */
  const expected = [
    ['a sound kernel', [...spillProblems(of({})), ...budgetProblems(of({}), budget)], undefined],
    ['a sound kernel', [...censusProblems(of({}), rules), ...launchProblems(of({}), planned(256, 65536))], undefined],
    ['spilled registers', spillProblems(of({ spills: 8 })), /8 bytes are spilled/],
    ['a stack', spillProblems(of({ stack: 16 })), /16 bytes of stack/],
    ['local memory', spillProblems(of({ instructions: { STL: 2 } })), /2 instructions on local memory/],
    ['local memory in PTX', spillProblems(of({ instructions: { 'st.local.u32': 1 } })), /1 instructions on local memory/],
    ['another count of registers', budgetProblems(of({ registers: 129 }), budget), /has 129 registers.*budget is 128/],
    ['static shared memory', budgetProblems(of({ shared: 48 }), budget), /and 48 bytes/],
    ['a kernel without a budget', budgetProblems(of({}), {}), /its budget is nothing/],
    ['a budget without a kernel', budgetProblems(new Map(), budget), /has nothing, its budget/],
    ['a missing instruction', censusProblems(of({ instructions: {} }), rules), /has no .*HMMA/],
    ['an expectation that nothing meets', censusProblems(of({}, 'other_f16'), rules), /no kernel is named/],
    ['other threads', launchProblems(of({}), planned(128, 0)), /made for 256 threads/],
    ['more threads than a row may have', launchProblems(of({}, 'sample'), planned(512, 0, 'sample')), /made for 256 threads/],
    ['too much shared memory for two blocks', launchProblems(of({}), planned(256, 100000)), /1 blocks fit on a multiprocessor \(shared memory\)/],
    ['too many registers for two blocks', launchProblems(of({ registers: 130 }), planned(256, 0)), /1 blocks fit on a multiprocessor \(registers\)/],
    ['a kernel that was not compiled', launchProblems(of({}), planned(256, 0, 'linear_gone')), /linear_gone is planned for A100 and was not compiled/],
    ['a kernel that nothing plans', launchProblems(new Map([...of({}), ...of({}, 'linear_dead')]), planned(256, 0)), /linear_dead is planned for no card/],
    ['no launches', launchProblems(of({}, 'ceiling_copy'), { cards: [a100], launches: [] }), /no launch is planned/],
    ['a current page', pageProblems(page, rewritePage(page, { kernels: 'now' }).written), undefined],
    ['a page that is not current', pageProblems(page, rewritePage(page, { kernels: 'new' }).written), /not current/],
    ['a page without the section', rewritePage('# Kernels', { kernels: 'now' }).problems, /no section "kernels"/],
    ['a log without kernels', gatherSample(sample.ptx, ''), /log names no kernel/],
    ['a kernel that the PTX lacks', gatherSample('', sample.log), /linear_f16_128x128 for sm_70 is in the assembler's log, but not in the PTX/],
    ['a program that does not list the plans', readPlans(process.execPath, 'gone').problems, /--planned/],
    ['a log and its PTX', gatherSample(sample.ptx, sample.log), undefined],
  ]
  for (const [what, found, pattern] of expected) {
    const noticed = pattern === undefined ? found.length === 0 : found.some((problem) => pattern.test(problem))
    if (!noticed) problems.push(`${what}: ${found.join('; ') || 'not noticed'}`)
  }
  console.log(`self-test: ${expected.length} rules`)
  return problems
}

const { values } = parseArgs({
  options: { update: { type: 'boolean' }, 'self-test': { type: 'boolean' }, cases: { type: 'string', default: join(root, 'build-cases/ewe-cases') } },
})
try {
  const problems = values['self-test'] ? selfTest() : await check(values)
  for (const problem of problems) console.error(problem)
  process.exitCode = problems.length > 0 ? 1 : 0
} catch (error) {
  if (!(error instanceof KernelError)) throw error
  console.error(`ewe: ${error.message}`)
  process.exitCode = 1
}
