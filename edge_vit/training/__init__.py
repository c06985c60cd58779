"""The reference Vision Transformer, fine-tuning, and small real data sets to try them on.

`vit` is the model, `datasets` the images, `finetune` brings the two together, `checkpoint` keeps
the outcome with all that an export needs. Import from those modules; this one loads nothing.
"""
