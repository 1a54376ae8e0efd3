"""From a file, a folder of frames or images in memory to pixels."""
