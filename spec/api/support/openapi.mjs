// Judges an OpenAPI document, and answers by the schemas that it gives: node openapi.mjs FILE, where FILE holds
// {document, answers: [{path, method, status, body}]}. Prints a line for each fault; none when all is well.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const require = createRequire(new URL('../../../build/browser/', import.meta.url));
const { Validator } = await import(pathToFileURL(require.resolve('@seriousme/openapi-schema-validator')));
const Ajv = require('ajv/dist/2020.js').default;
const addFormats = require('ajv-formats').default;

const { document, answers } = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const faults = [];

const validator = new Validator();
const { valid, errors } = await validator.validate(structuredClone(document));
if (!valid) faults.push(`the document: ${JSON.stringify(errors)}`);
if (validator.version !== '3.1') faults.push(`the document has version ${validator.version}`);

const ajv = new Ajv({ strict: true, allErrors: true, allowUnionTypes: true });
addFormats(ajv);
ajv.addKeyword('components');
ajv.addSchema({ $id: 'doc', components: document.components });
const whole = (schema) => JSON.parse(JSON.stringify(schema).replaceAll('"#/components', '"doc#/components'));

for (const { path, method, status, body } of answers) {
  const name = `${method} ${path} ${status}`;
  const schema = document.paths[path]?.[method]?.responses?.[status]?.content?.['application/json']?.schema;
  if (!schema) {
    faults.push(`${name}: not in the document`);
    continue;
  }
  const check = ajv.compile(whole(schema));
  if (!check(body)) faults.push(`${name}: ${ajv.errorsText(check.errors)}`);
  const extra = Object.keys(body).filter((key) => schema.properties && !(key in schema.properties));
  if (extra.length) faults.push(`${name}: has ${extra} beyond its schema`);
}
for (const fault of faults) console.log(fault);
