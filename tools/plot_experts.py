#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Share of high-AP units, layers by experts (the paper's figure 3), from expert_neurons.h5 or its expert_neurons_LANG.csv; --languages
names one. Expert 0 is the base's FFN; the CSV calls expert 1 exp_0."""
import sys

import pictures
import plot_data
from tool_errors import EXIT_CONFIG, ToolError, exit_code_of


def draw(argv: list[str] | None = None) -> None:
    """Writes the picture that the command line asks for."""
    options = plot_data.arguments(__doc__, "expert_neurons.h5, or the CSV of a language").parse_args(argv)
    if not options.languages or "," in options.languages:
        raise ToolError("--languages: name one language", EXIT_CONFIG)
    values = plot_data.expert_ratios(options.input, options.languages)
    columns = ["0, base"] + [str(e) for e in range(1, values.shape[1])]
    pictures.save(pictures.heat_map(values, [str(layer) for layer in range(len(values))], columns,
                                    ("expert", "layer", f"units specialized in {options.languages}, %")), options.output)


if __name__ == "__main__":
    sys.exit(exit_code_of("plot_experts", draw))
