"""Data: any dataset becomes samples, a passport says what is wrong with it, toy worlds have answers that are certain.

In reading order:

    formats/    every dataset format, read into samples and written from them
    passport/   what is in a dataset, what is wrong with it, what must be left out
    loading/    what loader files share: parts by clip, the splits of a training, the engine's view
    cosmos_sft, cosmos_grpo, avha_sft_single_caption, llava_sft, saved_sft     the guide's loader files
    road_vqa (the tutorial's); av_caption, av_grounding, wts_vqa, warehouse_vqa (region_masks), videophy2
    (videophy2_download)
    convert     from any format to any other
    worlds/     toy data in the same layouts

    cosmos-rl --config configs/avha_sft.toml data_tools/avha_sft_single_caption.py
"""
