// What DSPy's runner imports of Deno's standard library: `readLines`, which yields the lines of a reader without their
// breaks. From here, by import_map.json, so that nothing of the sandbox comes from a web site.
export async function* readLines(reader) {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const bytes of reader.readable) {
    const lines = (rest + decoder.decode(bytes, { stream: true })).split("\n");
    rest = lines.pop();
    for (const line of lines) yield line.endsWith("\r") ? line.slice(0, -1) : line;
  }
  rest += decoder.decode();
  if (rest) yield rest;
}
