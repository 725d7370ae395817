"""Parity of the embedded Detectron2 with the real one."""
