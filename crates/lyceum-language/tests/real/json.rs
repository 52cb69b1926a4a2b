//! `tokenizer.json` of real families: ids that the `tokenizers` library for Python (0.23.3) gives.

use crate::asset;
use lyceum_language::tokenizer::{AddSpecial, ShowSpecials, Specials, Tokenizer};

fn tokenizer(family: &str) -> Option<Tokenizer> {
    let read =
        |name: &str| asset(&format!("tokenizers/{family}/{name}")).map(|path| std::fs::read(path).unwrap());
    let config = serde_json::from_slice(&read("tokenizer_config.json")?).unwrap();
    Some(Tokenizer::from_json(&read("tokenizer.json")?, Some(&config)).unwrap())
}

const TEXTS: [&str; 8] = [
    "The capital of France is",
    "  two spaces\n\n\nand lines\t",
    "naïve café – 12345 €",
    "我想在apple工作1314151天～ 🦙",
    "<|im_start|>user\nHi<|im_end|>\n<think>\n\n</think>\n<tool_call>",
    "<start_of_turn>user\nHi<end_of_turn>\n<bos>",
    "I've 'told he's there, 'RE you're sure? 'M not sure I'll make it, 'D you like some tea?",
    "e\u{301} combining, U\u{308}ber",
];

const QWEN3_PARSED: [&[u32]; 8] = [
    &[785, 6722, 315, 9625, 374],
    &[220, 1378, 12621, 1406, 437, 5128, 197],
    &[3376, 37572, 586, 51950, 1365, 220, 16, 17, 18, 19, 20, 12984],
    &[104100, 18493, 22377, 99257, 16, 18, 16, 19, 16, 20, 16, 35727, 21216, 11162, 99, 247],
    &[151644, 872, 198, 13048, 151645, 198, 151667, 271, 151668, 198, 151657],
    &[27, 2468, 3575, 37274, 29, 872, 198, 13048, 27, 408, 3575, 37274, 397, 33177, 436, 29],
    &[
        40, 3003, 364, 83, 813, 566, 594, 1052, 11, 364, 787, 498, 2299, 2704, 30, 364, 44, 537, 2704, 358,
        3278, 1281, 432, 11, 364, 35, 498, 1075, 1045, 15243, 30,
    ],
    &[963, 34171, 11, 49371],
];

const QWEN3_TEXT: [&[u32]; 8] = [
    &[785, 6722, 315, 9625, 374],
    &[220, 1378, 12621, 1406, 437, 5128, 197],
    &[3376, 37572, 586, 51950, 1365, 220, 16, 17, 18, 19, 20, 12984],
    &[104100, 18493, 22377, 99257, 16, 18, 16, 19, 16, 20, 16, 35727, 21216, 11162, 99, 247],
    &[
        27, 91, 318, 4906, 91, 29, 872, 198, 13048, 27, 91, 318, 6213, 91, 397, 151667, 271, 151668, 198,
        151657,
    ],
    &[27, 2468, 3575, 37274, 29, 872, 198, 13048, 27, 408, 3575, 37274, 397, 33177, 436, 29],
    &[
        40, 3003, 364, 83, 813, 566, 594, 1052, 11, 364, 787, 498, 2299, 2704, 30, 364, 44, 537, 2704, 358,
        3278, 1281, 432, 11, 364, 35, 498, 1075, 1045, 15243, 30,
    ],
    &[963, 34171, 11, 49371],
];

const GEMMA3_PARSED: [&[u32]; 8] = [
    &[2, 818, 5279, 529, 7001, 563],
    &[2, 138, 13498, 9952, 109, 624, 4463, 255968],
    &[2, 1789, 238527, 560, 33443, 1271, 236743, 236770, 236778, 236800, 236812, 236810, 11361],
    &[
        2, 62133, 237075, 17641, 11700, 236770, 236800, 236770, 236812, 236770, 236810, 236770, 237471,
        238352, 236743, 478, 397, 404, 391,
    ],
    &[
        2, 236820, 236909, 548, 236779, 3041, 111038, 2364, 107, 10979, 236820, 236909, 548, 236779, 643,
        111038, 107, 236820, 36345, 236813, 108, 954, 36345, 236813, 107, 236820, 13205, 236779, 6639,
        236813,
    ],
    &[2, 105, 2364, 107, 10979, 106, 107, 2],
    &[
        2, 236777, 236789, 560, 756, 151812, 668, 236789, 236751, 993, 236764, 756, 1357, 611, 236789, 500,
        2889, 236881, 756, 236792, 711, 2889, 564, 236789, 859, 1386, 625, 236764, 756, 236796, 611, 1133,
        1070, 11115, 236881,
    ],
    &[2, 236744, 238288, 26614, 236764, 749, 241151, 793],
];

const GEMMA3_TEXT: [&[u32]; 8] = [
    &[2, 818, 5279, 529, 7001, 563],
    &[2, 138, 13498, 9952, 109, 624, 4463, 255968],
    &[2, 1789, 238527, 560, 33443, 1271, 236743, 236770, 236778, 236800, 236812, 236810, 11361],
    &[
        2, 62133, 237075, 17641, 11700, 236770, 236800, 236770, 236812, 236770, 236810, 236770, 237471,
        238352, 236743, 478, 397, 404, 391,
    ],
    &[
        2, 236820, 236909, 548, 236779, 3041, 111038, 2364, 107, 10979, 236820, 236909, 548, 236779, 643,
        111038, 107, 236820, 36345, 236813, 108, 954, 36345, 236813, 107, 236820, 13205, 236779, 6639,
        236813,
    ],
    &[
        2, 236820, 3041, 236779, 1340, 236779, 887, 236813, 2364, 107, 10979, 236820, 643, 236779, 1340,
        236779, 887, 236813, 107, 236820, 46757, 236813,
    ],
    &[
        2, 236777, 236789, 560, 756, 151812, 668, 236789, 236751, 993, 236764, 756, 1357, 611, 236789, 500,
        2889, 236881, 756, 236792, 711, 2889, 564, 236789, 859, 1386, 625, 236764, 756, 236796, 611, 1133,
        1070, 11115, 236881,
    ],
    &[2, 236744, 238288, 26614, 236764, 749, 241151, 793],
];

fn check(tokenizer: &Tokenizer, parsed: [&[u32]; 8], as_text: [&[u32]; 8]) {
    for ((text, parsed), as_text) in TEXTS.iter().zip(parsed).zip(as_text) {
        assert_eq!(tokenizer.encode(text, AddSpecial::Yes, Specials::Parsed).unwrap(), parsed, "{text:?}");
        assert_eq!(tokenizer.encode(text, AddSpecial::Yes, Specials::AsText).unwrap(), as_text, "{text:?}");
        // A guarded text is one without special tokens.
        let guarded = tokenizer.guarded("").protect(text);
        assert_eq!(
            tokenizer.encode(&guarded, AddSpecial::Yes, Specials::Protected).unwrap(),
            as_text,
            "{text:?}"
        );
    }
}

#[test]
fn qwen_3_agrees_with_python() {
    let Some(tokenizer) = tokenizer("qwen3") else { return };
    check(&tokenizer, QWEN3_PARSED, QWEN3_TEXT);
    assert_eq!(tokenizer.eos(), tokenizer.token_id("<|im_end|>"));
    let ids = tokenizer.encode(TEXTS[4], AddSpecial::No, Specials::Parsed).unwrap();
    assert_eq!(tokenizer.decode_as(&ids, ShowSpecials::Yes).unwrap(), TEXTS[4]);
    assert_eq!(tokenizer.decode(&ids).unwrap(), "user\nHi\n<think>\n\n</think>\n<tool_call>");
}

#[test]
fn gemma_3_agrees_with_python() {
    let Some(tokenizer) = tokenizer("gemma3") else { return };
    check(&tokenizer, GEMMA3_PARSED, GEMMA3_TEXT);
    for text in TEXTS {
        let ids = tokenizer.encode(text, AddSpecial::No, Specials::AsText).unwrap();
        assert_eq!(tokenizer.decode_as(&ids, ShowSpecials::Yes).unwrap(), text);
    }
}
