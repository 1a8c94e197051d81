# SPDX-License-Identifier: Apache-2.0
"""lm-eval's list of tasks."""


class TaskManager:
    def __init__(self, include_path):
        self.include_path = include_path
