// Tokens per second of `rlaif ui --model` with many streams at once, against `rlaif bench generate` with as many rows,
// as many tokens of prompts and responses, and the same number of threads. Both take turns, so that other work on the
// machine slows both: the ratio is that of each round, and the result their median. The server waits while the other
// program runs.
//
//     node benches/serve.mjs target/release/rlaif [MODEL] [STREAMS] [TOKENS] [ROUNDS]

import { spawn, spawnSync } from "node:child_process";
import { request } from "node:http";
import { createInterface } from "node:readline";

const [program, model = "models/summary-llama", ...sizes] = process.argv.slice(2);
const [streams = 64, tokens = 128, rounds = 5] = sizes.map(Number);
const PROMPT = 32;

const server = spawn(program, ["ui", "--port", "0", "--model", `m=${model}`, "--batch-size", String(streams)], { stdio: ["ignore", "pipe", "inherit"] });
let api;
let key;
for await (const line of createInterface({ input: server.stdout })) {
  [, api, key] = /^api (\S+) (\S+)$/.exec(line) ?? [];
  if (api) break;
}

/** One stream; returns the number of its tokens. */
const stream = (seed) => new Promise((done, failed) => {
  const prompt = Array.from({ length: PROMPT }, (_, at) => 100 + (seed * 31 + at * 17) % 5000);
  const asked = JSON.stringify({ model: "m", prompt, max_tokens: tokens, ignore_eos: true, seed, stream: true });
  const sent = request(`${api}/completions`, { method: "POST", agent: false, headers: { authorization: `Bearer ${key}`, "content-length": asked.length } }, (reply) => {
    let count = 0;
    reply.setEncoding("latin1");
    reply.on("data", (text) => { count += text.split('"text":').length - 1; });
    reply.on("end", () => done(count));
  });
  sent.on("error", failed);
  sent.end(asked);
});

const median = (numbers) => numbers.toSorted((a, b) => a - b)[numbers.length >> 1];
const [served, batched] = [[], []];
for (let round = 0; round <= rounds; round += 1) {
  const since = performance.now();
  const counts = await Promise.all(Array.from({ length: streams }, (_, at) => stream(round * streams + at)));
  const seconds = (performance.now() - since) / 1000;
  if (counts.some((count) => count !== tokens)) throw new Error(`tokens of the streams: ${counts}`);
  const bench = spawnSync(program, ["bench", "generate", "--model", model, "--batch-size", String(streams), "--prompt-len", String(PROMPT),
    "--new-tokens", String(tokens), "--steps", "1", "--json"], { encoding: "utf8" });
  if (bench.status !== 0) throw new Error(bench.stderr);
  // The first round is not timed.
  if (round === 0) continue;
  served.push(streams * tokens / seconds);
  batched.push(JSON.parse(bench.stdout).tokens_per_s);
}
server.kill("SIGINT");
const ratios = served.map((one, round) => one / batched[round]);
console.log(`${streams} streams: ${median(served).toFixed(0)} tokens/s; batched: ${median(batched).toFixed(0)} tokens/s; `
  + `ratio ${median(ratios).toFixed(3)} (${Math.min(...ratios).toFixed(3)} to ${Math.max(...ratios).toFixed(3)} in ${rounds} rounds)`);
