"""llama.cpp as a witness: log-probabilities of the token behind a prompt, as its server gives them, in a process of its own.

    python llama_cpp.py MODEL.gguf      reads [[token, ...], ...] from its input, writes a row of log-probabilities for each

The server of the package ``xllamacpp`` runs on one thread and with a float32 cache; a model that it does not load, or one that
takes longer than ``LIMIT_S``, is a RuntimeError.
"""

import json
import os
import subprocess
import sys

LIMIT_S = 120
_CONTEXT = 64


def log_probabilities(path, prompts, vocab_size):
    """[[log-probability of every token] of every prompt] of a GGUF file."""
    try:
        done = subprocess.run([sys.executable, __file__, str(path), str(vocab_size)], input=json.dumps(prompts), text=True,
                              errors="replace", capture_output=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"llama.cpp must answer within {LIMIT_S} s, and did not for {path}") from None
    if done.returncode:
        raise RuntimeError(f"llama.cpp must run {path}, and did not: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _main(path, vocab_size):
    import xllamacpp
    parameters = xllamacpp.CommonParams()
    parameters.model.path = path
    parameters.n_ctx, parameters.n_parallel, parameters.n_gpu_layers = _CONTEXT, 1, 0
    parameters.warmup = parameters.fit_params = False
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server, rows = xllamacpp.Server(parameters), []
    for prompt in json.load(sys.stdin):
        answer = server.handle_completions({"prompt": prompt, "n_predict": 1, "n_probs": vocab_size, "temperature": 0,
                                            "cache_prompt": False, "ignore_eos": True})
        found = {each["id"]: each["logprob"] for each in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]}
        rows.append([found[token] for token in range(vocab_size)])
    print("\n" + json.dumps(rows), flush=True)
    os._exit(0)     # the server's threads end with the process


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))
