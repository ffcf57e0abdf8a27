"""maskdpo-ray: sentence-masked DPO (Mask-DPO, ICLR 2025) as one job graph on Ray."""

__version__ = "0.1.0"
