"""Models of other systems, read into ours.

megatron.py             a Megatron-LM Retro checkpoint -> RetroForCausalLM
megatron_settings.py    its settings -> our configuration
megatron_layout.py      its weights -> our weights
megatron_files.py       its files, read without Megatron and without executing their pickles
"""
