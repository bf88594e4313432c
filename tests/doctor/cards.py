"""GPUs as nvidia-smi tells of them, for machines that tests play."""

from cookbook.doctor.checks import GPU, parse

H100 = "{i}, GPU-{i}b3c, NVIDIA H100 80GB HBM3, 81559, 81000, 9.0, 580.65.06"
T4 = "{i}, GPU-{i}b3c, Tesla T4, 15360, 15000, 7.5, 580.65.06"


def cards(count: int, line: str = H100) -> list[GPU]:
    return parse("\n".join(line.format(i=i) for i in range(count)) + "\n")
