"""Models of other systems, read into ours.

megatron.py             a Megatron-LM Retro checkpoint -> RetroForCausalLM
megatron_settings.py    its settings -> our configuration
megatron_layout.py      its weights -> our weights
megatron_checkpoint.py  its settings and tensors, out of all its files
megatron_files.py       where its files lie
megatron_pickle.py      a file, read without Megatron and without executing its pickle
"""
