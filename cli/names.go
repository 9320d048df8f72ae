package cli

import "math/rand/v2"

var (
	adjectives = []string{
		"able", "amber", "astern", "bold", "brave", "bright", "brisk", "calm", "clear", "coastal", "crisp", "deep",
		"eager", "early", "fair", "fast", "fine", "fleet", "fresh", "gentle", "glad", "golden", "grand", "hardy",
		"keen", "kind", "light", "lively", "loyal", "merry", "mild", "neat", "nimble", "noble", "northern", "patient",
		"plucky", "proud", "quick", "quiet", "ready", "royal", "salty", "sharp", "silver", "sound", "southern", "spry",
		"stable", "steady", "still", "stout", "sunny", "swift", "tidal", "tidy", "trim", "true", "warm", "wise",
	}
	nouns = []string{
		"albatross", "anchor", "barge", "beacon", "bosun", "bow", "breeze", "buoy", "capstan", "clipper", "cod", "compass",
		"coral", "cormorant", "cutter", "deck", "dinghy", "dolphin", "ferry", "fjord", "gale", "galley", "gannet", "gull",
		"halyard", "harbour", "hatch", "heron", "hull", "island", "jib", "keel", "kelp", "ketch", "lagoon", "lantern",
		"mast", "mooring", "narwhal", "oar", "osprey", "otter", "pelican", "pilot", "plank", "puffin", "quay", "reef",
		"rudder", "sail", "seal", "sextant", "shoal", "sloop", "spar", "stern", "tern", "tide", "tiller", "whale",
	}
)

// randomName makes a name for a container that was given none. There are 3600:
// whoever asks tries again when one is taken.
func randomName() string {
	return adjectives[rand.IntN(len(adjectives))] + "-" + nouns[rand.IntN(len(nouns))]
}
