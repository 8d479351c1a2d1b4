// Runs a scenario with a build of podwire for wasm32-wasip1: node .ci/wasi.mjs podwire.wasm run scenarios/a.ron
import { readFileSync } from 'node:fs';
import { WASI } from 'node:wasi';

const [file, ...args] = process.argv.slice(2);
const wasi = new WASI({
  version: 'preview1',
  args: ['podwire', ...args],
  env: { NO_COLOR: '1' },
  preopens: { '.': '.' },
  returnOnExit: true,
});
const module = await WebAssembly.compile(readFileSync(file));
process.exitCode = wasi.start(await WebAssembly.instantiate(module, wasi.getImportObject()));
