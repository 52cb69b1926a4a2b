//! What preparation takes from the rows beside the training itself. Noise protects gradients only: each of
//! these is fixed by the spec, or declared public by the owner of the data, or refused.

use crate::data::Loaded;
use lyceum_models::prepare::series::Series;
use lyceum_models::prepare::tabular::{CategoryMissing, Code};
use lyceum_models::prepare::{InputPreparation, OutputPreparation, Preparation};
use lyceum_types::spec::privacy::{PrivacySpec, PublicStatistic};
use lyceum_types::spec::{InputSpec, ModelSpec, Spec, TokenizerSpec};

/// A statistic that the run would publish, and what the spec can say instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undeclared {
    pub statistic: PublicStatistic,
    pub what: &'static str,
    pub instead: &'static str,
}

/// Everything that is neither fixed by the spec nor declared public.
pub fn undeclared(spec: &Spec, privacy: &PrivacySpec, loaded: &Loaded) -> Vec<Undeclared> {
    let mut found = taken(spec, privacy, &loaded.preparation);
    found.retain(|u| !privacy.is_public(u.statistic));
    found
}

fn taken(spec: &Spec, privacy: &PrivacySpec, preparation: &Preparation) -> Vec<Undeclared> {
    let mut found = Vec::new();
    let mut take = |is_taken: bool, statistic, what, instead| {
        if is_taken {
            found.push(Undeclared { statistic, what, instead });
        }
    };
    use PublicStatistic as P;
    take(
        privacy.sampling_rate.is_none(),
        P::Rows,
        "the sampling rate is the batch size over the number of rows",
        "write sampling_rate = 0.01 under [privacy] and steps under [train]",
    );
    take(
        spec.train.steps.is_none() && privacy.sampling_rate.is_some(),
        P::Rows,
        "an epoch is as many steps as there are rows",
        "write steps under [train]",
    );
    let declared = spec.data.input.as_ref();
    match &preparation.input {
        InputPreparation::Tabular(encoder) => {
            let all_named = encoder.columns.iter().all(|c| spec.data.columns.contains_key(&c.name));
            take(
                !all_named,
                P::Columns,
                "which columns there are, and which are numbers, is read from the rows",
                "name the kind of every column under data.columns",
            );
            let (mut scaled, mut categories, mut filled) = (false, false, false);
            for column in &encoder.columns {
                match &column.code {
                    Code::Number { mean, std, .. } => scaled |= (*mean, *std) != (0.0, 1.0),
                    Code::Category { missing, .. } => {
                        categories = true;
                        filled |= matches!(missing, CategoryMissing::Fill(_));
                    }
                }
            }
            let missing = !matches!(
                spec.data.missing,
                lyceum_types::spec::Missing::Error | lyceum_types::spec::Missing::Indicator
            );
            take(
                scaled || filled || missing,
                P::Scales,
                "means and deviations of columns, and what fills missing cells",
                "write standardize = false and missing = \"error\" under [data]",
            );
            take(categories, P::Categories, "the values of columns of categories", "make them numbers");
        }
        InputPreparation::Image(pixels) => {
            let is_set = matches!(declared, Some(InputSpec::Image { shape: Some(_), .. }));
            take(!is_set, P::Lengths, "the shape of the pictures", "write data.input.shape");
            take(
                !pixels.mean.is_empty(),
                P::Scales,
                "means and deviations of the pixels",
                "write standardize = false under [data]",
            );
        }
        InputPreparation::Series(Series { mean, .. }) => {
            take(
                spec.data.window.is_none(),
                P::Lengths,
                "the number of steps of a series",
                "declare it: a series' length is fixed by its file",
            );
            take(
                !mean.is_empty(),
                P::Scales,
                "means and deviations of the series",
                "write standardize = false under [data]",
            );
        }
        InputPreparation::Audio(mel) => {
            take(
                !mel.mean.is_empty(),
                P::Scales,
                "means and deviations of the sounds",
                "write standardize = false under [data]",
            );
        }
        InputPreparation::Text { .. } | InputPreparation::Pair { .. } => {
            let fixed = matches!(spec.data.tokenizer, Some(TokenizerSpec::Byte | TokenizerSpec::File(_)));
            take(
                !fixed,
                P::Vocabulary,
                "the tokenizer is learnt from the texts",
                "write tokenizer = \"byte\", or the path of a tokenizer.json",
            );
            let is_set = matches!(declared, Some(InputSpec::Text { max_tokens: Some(_) }))
                || matches!(spec.model, ModelSpec::Transformer(_));
            take(!is_set, P::Lengths, "the longest text", "write data.input.max_tokens");
        }
    }
    match &preparation.output {
        OutputPreparation::Labels { .. } | OutputPreparation::StepLabels { .. } => {
            take(true, P::Labels, "the list of classes is read from the rows", "declare it");
        }
        OutputPreparation::Values { mean, std, .. } => {
            let scaled = mean.iter().any(|m| *m != 0.0) || std.iter().any(|s| *s != 1.0);
            take(
                scaled,
                P::Scales,
                "mean and deviation of the targets",
                "write standardize = false under [data]",
            );
        }
        OutputPreparation::Tokens => {}
    }
    found
}
