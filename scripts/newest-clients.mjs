// node scripts/newest-clients.mjs
//
// The tests of clients once more, with the newest packages (test/newest/package.json) under the newest Node that is supported for long: they need a newer one
// than the oldest that ewe runs on, which is what the packages of package.json are for. Sources and tests are copied to where the newest packages lie, compiled
// against their types, and run. The last line is `N passed, N failed`.
import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { root } from './sources.mjs'

const tests = ['adapters', 'serve/clients.ts', 'serve/frameworks.ts', 'serve/jobs.ts', 'serve/served.ts']
const node = { name: `node-linux-${process.arch}`, version: '24.21.0' } // Node itself, as a package of npm
const folder = join(root, '.cache/newest-clients')

function run(command, args, cwd = folder) {
  // What npm says of its work is left out: the versions are said here.
  const { status, error } = spawnSync(command, args, { cwd, stdio: ['ignore', command === 'npm' ? 'ignore' : 'inherit', 'inherit'] })
  if (status === 0) return
  console.log(`\n${command} ${args.join(' ')} ${error?.message ?? 'failed'}\n\n0 passed, 1 failed`)
  process.exit(1)
}

mkdirSync(folder, { recursive: true })
const wanted = JSON.parse(readFileSync(join(root, 'test/newest/package.json'), 'utf8'))
wanted.dependencies[node.name] = node.version
writeFileSync(join(folder, 'package.json'), JSON.stringify(wanted))
const install = ['install', '--ignore-scripts', '--prefer-offline', '--no-audit', '--no-fund', '--no-package-lock', '--loglevel', 'error']
run('npm', install)
console.log(Object.entries(wanted.dependencies).map((pair) => pair.join(' ')).join(', '))

// The package itself takes them for its peers: npm refuses what they do not fit.
const tarball = join(folder, 'ewe.tgz')
const { status, stdout } = spawnSync('npm', ['pack', '--silent', '--ignore-scripts', '--pack-destination', folder], { cwd: root, encoding: 'utf8' })
if (status !== 0) throw new Error('npm pack failed')
cpSync(join(folder, stdout.trim()), tarball)
run('npm', [...install, '--dry-run', '--strict-peer-deps', tarball])

for (const name of ['src', 'test', 'build']) rmSync(join(folder, name), { recursive: true, force: true })
cpSync(join(root, 'src'), join(folder, 'src'), { recursive: true })
for (const name of tests) cpSync(join(root, 'test', name), join(folder, 'test', name), { recursive: true })
cpSync(join(root, 'test/newest/versions.ts'), join(folder, 'test/adapters/versions.ts'))
const compilerOptions = { rootDir: '.', outDir: 'build', declaration: false, sourceMap: true }
writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ extends: '../../tsconfig.json', compilerOptions, include: ['src', 'test'] }))
run(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', '.'])
run(join(folder, 'node_modules', node.name, 'bin/node'), ['scripts/test.mjs', '--folder', join(folder, 'build/test'), '--jobs', '1'], root)
