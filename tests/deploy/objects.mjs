// node objects.mjs MODULES FILE...: check Kubernetes objects in YAML against the types of the API.
//
// Writes each document as a typed literal and lets the TypeScript compiler judge: a wrong type, an
// unknown field or a missing one is an error. MODULES is where kubernetes-models, typescript and
// yaml were installed.
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';

const [modules, ...files] = process.argv.slice(2);
const root = resolve(modules);
const YAML = createRequire(root + '/')('yaml');
// Kinds of the core are in kubernetes-models, those of operators in packages of their own or in a file beside this.
const packages = { 'monitoring.coreos.com': '@kubernetes-models/prometheus-operator' };
const own = { 'serving.kserve.io': 'kserve.d.mts' };

let source = '';
let count = 0;
for (const file of files) {
  for (const document of YAML.parseAllDocuments(readFileSync(file, 'utf8'))) {
    const object = document.toJS();
    if (!object || object.kind === 'Kustomization') continue;
    count++;
    const [group] = object.apiVersion.split('/');
    const from = own[group] ? `./${own[group].replace('.d.mts', '.mjs')}`
      : `${packages[group] ?? 'kubernetes-models'}/${object.apiVersion}/${object.kind}`;
    source += `import type { I${object.kind} as T${count} } from '${from}';\n`
      + `// ${file}: ${object.kind} ${object.metadata.name}\n`
      + `export const object${count}: T${count} = ${JSON.stringify(object, null, 1)};\n`;
  }
}
const folder = mkdtempSync(join(root, 'check-')); // inside, so that the packages are found
try {
  for (const types of Object.values(own)) copyFileSync(new URL(types, import.meta.url), join(folder, types));
  writeFileSync(join(folder, 'check.mts'), source);
  execFileSync(join(root, 'node_modules/.bin/tsc'), ['--noEmit', '--strict', '--skipLibCheck',
    '--module', 'node16', '--moduleResolution', 'node16', join(folder, 'check.mts')], { stdio: 'inherit' });
} catch (error) {
  console.error(error.code ?? `the compiler refused it (${error.status})`);
  process.exitCode = 1;
} finally {
  rmSync(folder, { recursive: true });
}
if (count === 0) process.exitCode = 1;
console.log(`${count} objects`);
