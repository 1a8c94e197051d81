# SPDX-License-Identifier: Apache-2.0
"""lm-eval's command line: two requests for the task `pair`, one text for `whole`."""
import sys

from lm_eval import Instance
from lm_eval.api.registry import MODELS


def cli_evaluate():
    words = sys.argv[2:]
    options = dict(zip(words[::2], words[1::2]))
    lm = MODELS[options["--model"]](**dict(part.split("=") for part in options["--model_args"].split(",")))
    if options["--tasks"] == "nothing":
        raise ValueError("no such task\nmore of it")
    pairs = lm.loglikelihood([Instance(("a", " b"), "pair"), Instance(("a", " c"), "pair")])
    print("table", pairs, lm.loglikelihood_rolling([Instance(("whole text",), "whole")]), lm.get_model_info()["neuronmoe"]["bos"])
