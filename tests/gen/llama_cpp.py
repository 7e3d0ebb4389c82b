"""llama.cpp as a witness: its server in a process of its own.

    python llama_cpp.py score MODEL.gguf       reads [[token, ...], ...], writes the log-probabilities of all next tokens of each
    python llama_cpp.py tokenize MODEL.gguf    reads [text, ...], writes the tokens of each

The server of the package ``xllamacpp`` runs on one thread and with a float32 cache; a model that it does not load, or one that
takes longer than ``LIMIT_S``, is a RuntimeError.
"""

import json
import os
import subprocess
import sys
import urllib.request

LIMIT_S = 120
_CONTEXT = 64


def log_probabilities(path, prompts):
    """[[log-probability of every token] behind every prompt] of a GGUF file; a prompt is a list of tokens."""
    return _asked("score", path, prompts)


def tokens_of(path, texts):
    """[[token, ...] of every text], with the special tokens that begin one."""
    return _asked("tokenize", path, texts)


def _asked(what, path, questions):
    try:
        done = subprocess.run([sys.executable, __file__, what, str(path)], input=json.dumps(questions), text=True,
                              errors="replace", capture_output=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"llama.cpp must answer within {LIMIT_S} s, and did not for {path}") from None
    if done.returncode:
        raise RuntimeError(f"llama.cpp must run {path}, and did not: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _server(path):
    import xllamacpp
    parameters = xllamacpp.CommonParams()
    parameters.model.path = path
    parameters.n_ctx, parameters.n_parallel, parameters.n_gpu_layers = _CONTEXT, 1, 0
    parameters.warmup = parameters.fit_params = False
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return xllamacpp.Server(parameters)


def _scores(server, prompt):
    answer = server.handle_completions({"prompt": prompt, "n_predict": 1, "n_probs": 1 << 20, "temperature": 0,
                                        "cache_prompt": False, "ignore_eos": True})
    found = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    return [each["logprob"] for each in sorted(found, key=lambda each: each["id"])]


def _tokens(server, text):
    request = urllib.request.Request(f"{server.listening_address}/tokenize", headers={"Content-Type": "application/json"},
                                     data=json.dumps({"content": text, "add_special": True}).encode())
    with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
        return json.load(answer)["tokens"]


def _main(what, path):
    server = _server(path)
    answers = [{"score": _scores, "tokenize": _tokens}[what](server, question) for question in json.load(sys.stdin)]
    print("\n" + json.dumps(answers), flush=True)
    os._exit(0)     # the server's threads end with the process


if __name__ == "__main__":
    _main(*sys.argv[1:])
