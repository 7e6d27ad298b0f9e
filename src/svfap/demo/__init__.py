"""The complete method on synthetic faces, in a few minutes: what is pre-training good for?"""
