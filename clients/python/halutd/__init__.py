"""Client of halutd: classify pictures and multiply matrices with learned tables, over HTTP.

    with halutd.Client("http://127.0.0.1:8080") as client:
        print(client.classify("cat.jpg").top[0])

`Client` blocks and may be shared by threads; `AsyncClient` is the same with `await`. Nothing but the standard
library is needed; NumPy arrays and PIL images are accepted where those packages are installed.
"""

from ._async import AsyncClient
from ._protocol import (Classification, ConnectionFailed, Error, InferResult, Job, Label, LearningFailed,
                        NotFound,
                        Product, RequestError, Retry, ServerBusy, Tensor, TimedOut)
from ._sync import Client

__all__ = ["AsyncClient", "Classification", "Client", "ConnectionFailed", "Error", "InferResult",
           "Job", "Label", "LearningFailed", "NotFound", "Product", "RequestError", "Retry", "ServerBusy", "Tensor",
           "TimedOut"]
__version__ = "0.1.0"
