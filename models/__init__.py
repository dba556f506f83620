"""Networks: name -> module with its normalisation (`get_arch`), kinds of last layer, and first weights.

`ARCHS` in get_model.py has the paper's backbones; any other name is a timm model or a function in a file of the user
(`path/to/file.py:function`). May import utils.common and utils.cli. To add a backbone, write such a file (docs/architecture.md), or put a
builder into `ARCHS`: a function of (n_classes, pretrained, im_size) that returns `as_arch(module, n_classes, ...)`.
"""
