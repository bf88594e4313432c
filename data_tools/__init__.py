"""Data: any dataset becomes samples, a passport says what is wrong with it, toy worlds have answers that are certain.

In reading order:

    formats/    source, then a file a format; hub finds NVIDIA's rows and clips, sink is what all writers share
    passport/   reader, findings, clips (each file decoded once); checks, dataset, result (samples compared)
    splits, loading, engine_dataset             what loader files share: parts by clip, both splits, the engine's view
    cosmos_sft, cosmos_grpo, avha_sft_single_caption, llava_sft, saved_sft     the guide's loader files
    road_vqa (the tutorial's); av_caption, wts_vqa, warehouse_vqa (region_masks), videophy2 (videophy2_download)
    convert     from any format to any other
    worlds, drawing, road_world (road_questions) and the other *_world         toy data in the same layouts

    cosmos-rl --config configs/avha_sft.toml data_tools/avha_sft_single_caption.py
"""
