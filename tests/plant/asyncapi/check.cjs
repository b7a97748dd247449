// Reads AsyncAPI documents, with all they refer to, by the rules of their makers.
// node check.cjs FILE…: one line of JSON for each, a list of what is wrong with it.
const { readFileSync } = require("node:fs");
const { DiagnosticSeverity, Parser } = require("@asyncapi/parser");

const parser = new Parser();

async function faults(file) {
  const diagnostics = await parser.validate(readFileSync(file, "utf8"), { source: file });
  return diagnostics
    .filter((found) => found.severity <= DiagnosticSeverity.Warning)
    .map((found) => `${found.code} at ${found.path.join(".")}: ${found.message}`);
}

(async () => {
  for (const file of process.argv.slice(2)) console.log(JSON.stringify(await faults(file)));
})();
