//! Which files of a repository make a model: one GGUF file, Hugging Face's layout with safetensors, or
//! PEFT's of an adapter.

use crate::{HubError, Listed, Reference};
use lyceum_types::manifest::{ADAPTER_FILES, DESCRIPTION_FILES};

#[derive(Debug)]
pub(crate) enum Chosen<'a> {
    Gguf(&'a Listed),
    /// Weights and what says something of them.
    Folder(Vec<&'a Listed>),
}

impl<'a> Chosen<'a> {
    pub fn files(&self) -> Vec<&'a Listed> {
        match self {
            Chosen::Gguf(file) => vec![*file],
            Chosen::Folder(files) => files.clone(),
        }
    }
}

pub(crate) fn choose<'a>(reference: &Reference, files: &'a [Listed]) -> Result<Chosen<'a>, HubError> {
    let refused = |problem: String| HubError::Files { id: reference.id(), problem };
    // Projectors of pictures and sounds stand beside language models.
    let is_gguf = |file: &&Listed| has_ending(&file.name, ".gguf") && !file.name.contains("mmproj");
    let ggufs: Vec<&Listed> = files.iter().filter(is_gguf).collect();
    let names = || ggufs.iter().map(|file| file.name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(quant) = &reference.quant {
        let found: Vec<&&Listed> = ggufs.iter().filter(|file| is_of(&file.name, quant)).collect();
        return match found[..] {
            [file] => whole(file).map(Chosen::Gguf).map_err(refused),
            [] if ggufs.is_empty() => Err(refused(format!("it has no GGUF files, so none of type {quant}"))),
            [] => Err(refused(format!("it has no GGUF file of type {quant}; it has {}", names()))),
            [first, ..] => {
                whole(first).map_err(&refused)?;
                Err(refused(format!("several GGUF files are of type {quant}: name one of {}", names())))
            }
        };
    }
    let there = |name: &str| files.iter().find(|file| file.name == name);
    let is_sharded = there("model.safetensors.index.json").is_some();
    let is_weight = |name: &str| match is_sharded {
        true => name.starts_with("model-") && name.ends_with(".safetensors") && !name.contains('/'),
        false => name == "model.safetensors",
    };
    if files.iter().any(|file| is_weight(&file.name)) {
        if let Some(missing) = ["config.json", "tokenizer.json"].iter().find(|name| there(name).is_none()) {
            return Err(refused(format!("it has no {missing} beside its safetensors")));
        }
        let wanted =
            |file: &&Listed| DESCRIPTION_FILES.contains(&file.name.as_str()) || is_weight(&file.name);
        return Ok(Chosen::Folder(files.iter().filter(wanted).collect()));
    }
    // An adapter of a model that is elsewhere.
    if files.iter().any(|file| ADAPTER_FILES[..2].contains(&file.name.as_str())) {
        if let Some(missing) = ADAPTER_FILES[..2].iter().find(|name| there(name).is_none()) {
            return Err(refused(format!("it is an adapter and has no {missing}")));
        }
        let wanted = |file: &&Listed| ADAPTER_FILES.contains(&file.name.as_str());
        return Ok(Chosen::Folder(files.iter().filter(wanted).collect()));
    }
    match ggufs[..] {
        [file] => return whole(file).map(Chosen::Gguf).map_err(refused),
        [] => {}
        _ => {
            return Err(refused(format!(
                "it has several GGUF files: name one, {}:QUANT, of {}",
                reference.id(),
                names()
            )));
        }
    }
    let is_pickle =
        |file: &Listed| [".bin", ".pt", ".pth", ".ckpt"].iter().any(|e| has_ending(&file.name, e));
    Err(refused(match files.iter().find(|file| is_pickle(file)) {
        Some(file) => format!(
            "its weights are a pickle ({}), which can run code when it is read; convert them to safetensors",
            file.name
        ),
        None => "it has neither safetensors nor a GGUF file".into(),
    }))
}

fn has_ending(name: &str, ending: &str) -> bool {
    name.len() > ending.len() && name.to_ascii_lowercase().ends_with(ending)
}

/// Whether a file's name ends with the type (`model-Q4_K_M.gguf`, `model.q4_k_m.gguf`), or is what was asked for.
fn is_of(name: &str, quant: &str) -> bool {
    let base = name.rsplit('/').next().unwrap_or(name);
    if base.eq_ignore_ascii_case(quant) {
        return true;
    }
    let (stem, quant) = (unpart(base).to_ascii_lowercase(), quant.to_ascii_lowercase());
    stem.strip_suffix(&quant).is_some_and(|rest| rest.is_empty() || rest.ends_with(['-', '.', '_']))
}

/// `model-00001-of-00003.gguf` and `model.gguf` without what does not say their type.
fn unpart(base: &str) -> &str {
    let stem = base.get(..base.len().saturating_sub(5)).unwrap_or(base);
    match is_part(stem) {
        true => stem.get(..stem.len() - PART.len()).unwrap_or(stem),
        false => stem,
    }
}

const PART: &str = "-00001-of-00003";

fn is_part(stem: &str) -> bool {
    let Some(tail) = stem.len().checked_sub(PART.len()).and_then(|at| stem.get(at..)) else { return false };
    tail.bytes().zip(PART.bytes()).all(|(a, b)| if b.is_ascii_digit() { a.is_ascii_digit() } else { a == b })
}

/// Refuses a part of a file.
fn whole(file: &Listed) -> Result<&Listed, String> {
    let stem = file.name.get(..file.name.len().saturating_sub(5)).unwrap_or_default();
    match is_part(stem) {
        true => {
            Err(format!("{} is one of several parts: they must be merged into one file first", file.name))
        }
        false => Ok(file),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(reference: &str, names: &[&str]) -> Result<Vec<String>, String> {
        let files: Vec<Listed> =
            names.iter().map(|name| Listed { name: (*name).into(), ..Listed::default() }).collect();
        let chosen = choose(&reference.parse().unwrap(), &files).map_err(|error| error.to_string())?;
        Ok(chosen.files().iter().map(|file| file.name.clone()).collect())
    }

    #[test]
    fn the_gguf_file_of_the_type_is_chosen_else_safetensors_and_what_describes_them() {
        let quants = ["m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "m.q8_0.gguf", "mmproj-F16.gguf", "README.md"];
        assert_eq!(check("a/b:q4_k_m", &quants).unwrap(), ["m-Q4_K_M.gguf"]);
        assert_eq!(check("a/b:Q8_0", &quants).unwrap(), ["m.q8_0.gguf"]);
        assert_eq!(check("a/b:m-Q4_K_S.gguf", &quants).unwrap(), ["m-Q4_K_S.gguf"]);
        assert!(check("a/b:Q4_K", &quants).unwrap_err().contains("no GGUF file of type Q4_K"));
        assert!(check("a/b", &quants).unwrap_err().contains("several GGUF files"));
        assert_eq!(check("a/b", &["m-F16.gguf", "x.txt"]).unwrap(), ["m-F16.gguf"]);
        let parts = ["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"];
        assert!(check("a/b:Q8_0", &parts).unwrap_err().contains("several parts"));
        let folder =
            ["config.json", "tokenizer.json", "model.safetensors", "onnx/model.onnx", "pytorch_model.bin"];
        assert_eq!(check("a/b", &folder).unwrap(), &folder[..3]);
        let shards = [
            "config.json",
            "tokenizer.json",
            "model.safetensors.index.json",
            "model-00001-of-00001.safetensors",
            "consolidated.safetensors",
        ];
        assert_eq!(check("a/b", &shards).unwrap(), &shards[..4]);
        assert!(
            check("a/b", &["config.json", "model.safetensors"]).unwrap_err().contains("no tokenizer.json")
        );
        let adapter = ["README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json"];
        assert_eq!(check("a/b", &adapter).unwrap(), adapter[..3]);
        assert!(check("a/b", &adapter[..2]).unwrap_err().contains("no adapter_model.safetensors"));
        assert!(check("a/b", &["config.json", "pytorch_model.bin"]).unwrap_err().contains("pickle"));
        assert!(check("a/b:Q8_0", &folder).unwrap_err().contains("no GGUF files"));
        assert!(check("a/b", &["README.md"]).unwrap_err().contains("neither"));
    }
}
