"""The complete method on synthetic faces, in six minutes: what is pre-training good for?"""
