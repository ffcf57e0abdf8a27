"""Which devices a process of ours may use."""

import os


def hide_gpus() -> None:
    """Let this process see no GPU; to be called before anything asks for one.

    Ray hides GPUs from those who asked for some of them, and shows all to those who asked for
    none: several engines that count on CPUs would meet on the first GPU.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
