// llama.cpp, by the npm package node-llama-cpp, for programs that write JSON lines to it and read JSON lines from it.
//
//     node llama_cpp.mjs FOLDER CONTEXT MODEL.gguf [LORA.gguf]
//
// FOLDER holds node_modules/node-llama-cpp; CONTEXT is the tokens of a prompt with its reply at most. The first line that is written says what was loaded; then one line answers each
// line that is read, in turn:
//
//     {"tokenize": "text"}                                              -> {"tokens": [ids]}
//     {"tokens": [ids], "max_new_tokens": 32, "stop": [ids]}            -> {"tokens": [ids], "text": "...", "stop": "stop"}
//     {"prompt": "text", "max_new_tokens": 32, "stop": [ids]}           -> the same
//     {"tokens": [ids], "logits_at": [positions]}                       -> {"logits": [float32 of the whole vocabulary in base64, ...]}
//
// Special tokens in texts are read as such; nothing is added before or after them. Replies are greedy, begin after the
// prompt and leave out the token that ended them; "stop" is "stop" or "length". A request that fails is answered by {"error"}.
import os from "node:os";
import path from "node:path";
import process from "node:process";
import readline from "node:readline";
import { pathToFileURL } from "node:url";

const [folder, contextSize, modelPath, loraPath] = process.argv.slice(2);
const write = (value) => process.stdout.write(JSON.stringify(value) + "\n");

try {
    const entry = path.join(path.resolve(folder), "node_modules", "node-llama-cpp", "dist", "index.js");
    const { getLlama, LlamaLogLevel } = await import(pathToFileURL(entry).href);
    const llama = await getLlama({ gpu: false, build: "never", logLevel: LlamaLogLevel.error });
    const model = await llama.loadModel({ modelPath });
    // Its threads wait for each other by spinning: where another program has one of the cores, they take hundreds of times as long.
    const threads = Math.max(1, os.availableParallelism() - 1);
    const options = { contextSize: Number(contextSize), threads };
    if (loraPath) options.lora = { adapters: [{ filePath: loraPath }] };
    const context = await model.createContext(options);
    const sequence = context.getSequence();
    write({ ready: true, llama_cpp: llama.llamaCppRelease?.release ?? "unknown", context: context.contextSize });

    for await (const line of readline.createInterface({ input: process.stdin })) {
        try {
            write(await answer(model, sequence, JSON.parse(line)));
        } catch (error) {
            write({ error: String(error?.message ?? error) });
        }
    }
} catch (error) {
    write({ error: String(error?.message ?? error) });
}
process.exit(0);

async function answer(model, sequence, request) {
    if (request.tokenize !== undefined) return { tokens: model.tokenize(request.tokenize, true) };
    if (request.logits_at !== undefined) return { logits: await logits(sequence, request.tokens, request.logits_at) };
    const prompt = request.tokens ?? model.tokenize(request.prompt, true);
    const ends = new Set(request.stop);
    const tokens = [];
    let stop = "length";
    await sequence.clearHistory();
    for await (const token of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
        if (ends.has(token)) {
            stop = "stop";
            break;
        }
        tokens.push(token);
        if (tokens.length >= request.max_new_tokens) break;
    }
    return { tokens, text: model.detokenize(tokens), stop };
}

async function logits(sequence, tokens, positions) {
    await sequence.clearHistory();
    const wanted = new Set(positions);
    const input = tokens.map((token, at) => (wanted.has(at) ? [token, { generateNext: { logits: true } }] : token));
    const output = await sequence.controlledEvaluate(input);
    return positions.map((at) => {
        const found = output[at].next.logits;
        const row = new Float32Array(found.size);
        for (const [token, logit] of found) row[token] = logit;
        return Buffer.from(row.buffer).toString("base64");
    });
}
