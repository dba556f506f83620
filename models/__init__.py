"""Networks: build a backbone by name (`get_arch`), replace its classifier, and initialise its weights.

`published.py` loads published weights from a file (--init PATH). To accept another form of file, add its prefix or its names there.

`ARCHS` in get_model.py has the paper's backbones. Any other name is a timm model or a function in a file of the user
(`path/to/file.py:function`). To add a backbone, write such a file (docs/architecture.md), or add a builder to `ARCHS`: a function of
(n_classes, pretrained, im_size) that returns `as_arch(module, n_classes, ...)`. May import utils.common and utils.cli.
"""
