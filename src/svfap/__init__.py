"""SVFAP: a self-supervised video facial affect perceiver. The public API is listed in `__init__.pyi` and imported lazily."""

import lazy_loader

__version__ = "0.2.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
