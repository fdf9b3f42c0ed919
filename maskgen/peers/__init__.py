"""The models the paper compares with, ConvLLaVA and MobileVLM V2, from their published weights.

Neither the authors' packages nor any code of a model folder is run: the networks are put together here of
transformers' LLaMA, ConvNeXt and CLIP, and of two small projectors.
"""
