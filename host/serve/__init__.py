"""An HTTP server with the interface of OpenAI: one accelerator, many conversations (`celosia serve`, docs/serve.md).

It needs the extra ``serve``; nothing of it is imported by the rest of the host library.
"""
