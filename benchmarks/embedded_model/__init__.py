"""The tiny LLaVA-Video and its SigLIP, trained from scratch on synthetic videos, without pruning.

The stages, in order: `tower` (contrastive), those of `stage_soft` (the language model on symbolic videos), `align`
(projector), and those of `stage_video` (question answering).

It stands outside the package: whoever installs the plug-in runs the shipped model and never trains it.
"""
