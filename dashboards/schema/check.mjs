// Compiles each dashboard as a literal of Grafana's type: an unknown key, a
// missing one or a wrong value is an error of the compiler.
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { spawnSync } from 'node:child_process';

const generated = 'generated.ts';
const files = readdirSync('..').filter((name) => name.endsWith('.json'));
const literals = files.map((name, i) => `// ${name}\nexport const d${i}: Checked = ${readFileSync(`../${name}`, 'utf8')};`);
writeFileSync(generated, `import type { Checked } from './types';\n${literals.join('\n')}\n`);
const compiler = spawnSync('node_modules/.bin/tsc', ['--noEmit', '--strict', '--skipLibCheck', '--moduleResolution', 'bundler', '--module', 'esnext', generated], { stdio: 'inherit' });
if (compiler.status === 0) {
  rmSync(generated);
  console.log(`${files.length} dashboards are what @grafana/schema says: ${files.join(', ')}`);
}
process.exit(compiler.status ?? 1);
