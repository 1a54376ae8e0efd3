"""The tiny LLaVA-Video and its SigLIP, trained from scratch on synthetic videos, without pruning.

The stages, in order: `tower` (contrastive), `bank` (frames through H.264, features cached), `match` (option letters),
`soft` (the language model on symbolic videos), `align` (projector), `video` (question answering).
"""
