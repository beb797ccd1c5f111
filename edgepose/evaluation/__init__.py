"""Accuracy on annotated people: data sets, scorers, and a model file's figures by the runtime's own steps.

Average precision is computed by faster-coco-eval (``edgepose[eval]``); everything else needs numpy alone,
and OpenCV to read pictures.
"""
