//! Sound to log-mel frames, as Whisper computes them (Radford et al. 2022, `whisper/audio.py`): a Hann window,
//! power spectrum, Slaney mel filters with Slaney norm (librosa's default), then
//! `y = (max(log10(max(mel, 1e-10)), peak - 8) + 4) / 4` with `peak` the clip's largest value.
//!
//! Frames are centred, the clip's ends are reflected, and there are `n_samples / hop` of them.

use super::error::PrepareError;
use realfft::RealFftPlanner;
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;
use std::io::Cursor;

/// Log-mel features `[frames, n_mels]` of clips of one length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogMel {
    /// Samples a second; a file of another rate is refused.
    pub sample_rate: u32,
    pub n_mels: usize,
    /// Samples a window and between windows.
    pub window: usize,
    pub hop: usize,
    /// Samples a clip; a shorter one is followed by silence.
    pub n_samples: usize,
    /// Whether a longer clip is cut; it is refused otherwise.
    pub truncate: bool,
    /// Standardises each mel band; empty: as they are.
    pub mean: Vec<f64>,
    pub std: Vec<f64>,
}

/// Sound as numbers in [-1, 1], its channels averaged.
#[derive(Clone, Debug, PartialEq)]
pub struct Clip {
    pub sample_rate: u32,
    pub samples: Vec<f32>,
}

impl LogMel {
    /// Sizes from seconds and milliseconds; errors name the field of the spec's `input`.
    pub fn new(
        sample_rate: u32,
        n_mels: usize,
        (window_ms, hop_ms): (f64, f64),
        seconds: f64,
        truncate: bool,
    ) -> Result<Self, PrepareError> {
        let samples = |field: &str, seconds: f64| {
            let n = (seconds * f64::from(sample_rate)).round();
            if (1.0..1e9).contains(&n) {
                return Ok(n as usize);
            }
            Err(PrepareError::new(
                "bad_audio_setting",
                field,
                format!("{n} samples at {sample_rate} samples a second"),
                "give a length of at least one sample",
            ))
        };
        let mel = LogMel {
            sample_rate,
            n_mels,
            window: samples("input.window_ms", window_ms / 1e3)?,
            hop: samples("input.hop_ms", hop_ms / 1e3)?,
            n_samples: samples("input.seconds", seconds)?,
            truncate,
            mean: vec![],
            std: vec![],
        };
        if mel.n_samples <= mel.window || mel.n_samples < mel.hop {
            return Err(PrepareError::new(
                "bad_audio_setting",
                "input.seconds",
                format!("a clip of {} samples is shorter than a window of {}", mel.n_samples, mel.window),
                "give longer clips or a shorter window_ms",
            ));
        }
        if n_mels == 0 || n_mels > mel.window / 2 {
            return Err(PrepareError::new(
                "bad_audio_setting",
                "input.n_mels",
                format!("{n_mels} bands do not fit {} frequencies", mel.window / 2 + 1),
                format!("give 1 to {} bands, or a longer window_ms", mel.window / 2),
            ));
        }
        Ok(mel)
    }

    pub fn frames(&self) -> usize {
        self.n_samples / self.hop
    }

    /// Appends the features of a wav file.
    pub fn encode_wav(&self, bytes: &[u8], out: &mut Vec<f32>) -> Result<(), PrepareError> {
        self.encode_clip(&read_wav(bytes)?, out)
    }

    /// Appends the features of a clip.
    pub fn encode_clip(&self, clip: &Clip, out: &mut Vec<f32>) -> Result<(), PrepareError> {
        if clip.sample_rate != self.sample_rate {
            return Err(PrepareError::new(
                "wrong_sample_rate",
                "clip",
                format!("{} samples a second, but the model reads {}", clip.sample_rate, self.sample_rate),
                format!(
                    "resample it to {} Hz, for instance sox IN.wav -r {} OUT.wav",
                    self.sample_rate, self.sample_rate
                ),
            ));
        }
        if clip.samples.len() > self.n_samples && !self.truncate {
            let seconds = |n: usize| n as f64 / f64::from(self.sample_rate);
            return Err(PrepareError::new(
                "too_long",
                "clip",
                format!(
                    "{:.3} s long, but the model reads {:.3} s",
                    seconds(clip.samples.len()),
                    seconds(self.n_samples)
                ),
                "cut it, or train with a larger input.seconds or input.truncate = true",
            ));
        }
        let start = out.len();
        self.log_mel(&clip.samples[..clip.samples.len().min(self.n_samples)], out);
        if !self.mean.is_empty() {
            for frame in out[start..].chunks_mut(self.n_mels) {
                for (m, x) in frame.iter_mut().enumerate() {
                    *x = ((f64::from(*x) - self.mean[m]) / self.std[m]) as f32;
                }
            }
        }
        Ok(())
    }

    fn log_mel(&self, samples: &[f32], out: &mut Vec<f32>) {
        let (n_fft, half) = (self.window, self.window / 2);
        let sample = |i: isize| {
            // Reflection about the first and the last sample of the padded clip.
            let last = self.n_samples as isize - 1;
            let i = if i < 0 { -i } else { i };
            let i = if i > last { 2 * last - i } else { i } as usize;
            samples.get(i).map_or(0.0, |&x| f64::from(x))
        };
        let hann: Vec<f64> =
            (0..n_fft).map(|i| 0.5 - 0.5 * (2.0 * PI * i as f64 / n_fft as f64).cos()).collect();
        let fft = RealFftPlanner::<f64>::new().plan_fft_forward(n_fft);
        let (mut frame, mut spectrum) = (fft.make_input_vec(), fft.make_output_vec());
        let mut scratch = fft.make_scratch_vec();
        let filters = mel_filters(self.sample_rate, n_fft, self.n_mels);
        let n_bins = half + 1;

        let mut logs = Vec::with_capacity(self.frames() * self.n_mels);
        for t in 0..self.frames() {
            for (i, x) in frame.iter_mut().enumerate() {
                *x = sample((t * self.hop + i) as isize - half as isize) * hann[i];
            }
            fft.process_with_scratch(&mut frame, &mut spectrum, &mut scratch)
                .expect("the plan's own buffers have its sizes: bug");
            for filter in filters.chunks(n_bins) {
                let mel: f64 = filter.iter().zip(&spectrum).map(|(w, s)| w * s.norm_sqr()).sum();
                logs.push(mel.max(1e-10).log10());
            }
        }
        let peak = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        out.extend(logs.iter().map(|&x| ((x.max(peak - 8.0) + 4.0) / 4.0) as f32));
    }
}

/// Reads a wav file of integers (8 to 32 bits) or floats.
pub fn read_wav(bytes: &[u8]) -> Result<Clip, PrepareError> {
    let broken = |error: hound::Error| {
        PrepareError::new(
            "broken_wav",
            "clip",
            format!("the sound cannot be read: {error}"),
            "the file is cut short or no wav; write it again or remove it",
        )
    };
    let mut reader = hound::WavReader::new(Cursor::new(bytes)).map_err(broken)?;
    let spec = reader.spec();
    let interleaved: Vec<f32> = match spec.sample_format {
        hound::SampleFormat::Float => reader.samples::<f32>().collect::<Result<_, _>>().map_err(broken)?,
        hound::SampleFormat::Int => {
            let scale = 1.0 / (1u64 << (spec.bits_per_sample - 1)) as f32;
            reader
                .samples::<i32>()
                .map(|x| x.map(|x| x as f32 * scale))
                .collect::<Result<_, _>>()
                .map_err(broken)?
        }
    };
    if interleaved.is_empty() {
        return Err(PrepareError::new("empty_clip", "clip", "the sound has no samples", "remove the file"));
    }
    if interleaved.iter().any(|x| !x.is_finite()) {
        return Err(PrepareError::new(
            "not_finite",
            "clip",
            "a sample is not finite",
            "write the file again",
        ));
    }
    let channels = usize::from(spec.channels);
    let samples =
        interleaved.chunks(channels).map(|step| step.iter().sum::<f32>() / channels as f32).collect();
    Ok(Clip { sample_rate: spec.sample_rate, samples })
}

/// Triangular filters `[n_mels, n_fft / 2 + 1]` of area one on Slaney's scale: linear below 1 kHz, then
/// logarithmic (librosa `filters.mel` with its defaults).
fn mel_filters(sample_rate: u32, n_fft: usize, n_mels: usize) -> Vec<f64> {
    const HZ_PER_MEL: f64 = 200.0 / 3.0;
    const BREAK_MEL: f64 = 15.0; // 1 kHz
    let log_step = 6.4f64.ln() / 27.0;
    let to_mel = |hz: f64| {
        if hz < 1000.0 { hz / HZ_PER_MEL } else { BREAK_MEL + (hz / 1000.0).ln() / log_step }
    };
    let to_hz = |mel: f64| {
        if mel < BREAK_MEL { mel * HZ_PER_MEL } else { 1000.0 * (log_step * (mel - BREAK_MEL)).exp() }
    };
    let rate = f64::from(sample_rate);
    let top = to_mel(rate / 2.0);
    let edges: Vec<f64> = (0..n_mels + 2).map(|m| to_hz(top * m as f64 / (n_mels + 1) as f64)).collect();
    let mut filters = Vec::with_capacity(n_mels * (n_fft / 2 + 1));
    for m in 0..n_mels {
        let (low, centre, high) = (edges[m], edges[m + 1], edges[m + 2]);
        for bin in 0..=n_fft / 2 {
            let hz = bin as f64 * rate / n_fft as f64;
            let rising = (hz - low) / (centre - low);
            let falling = (high - hz) / (high - centre);
            filters.push(rising.min(falling).max(0.0) * 2.0 / (high - low));
        }
    }
    filters
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wav(rate: u32, samples: &[f32]) -> Vec<u8> {
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: rate,
            bits_per_sample: 32,
            sample_format: hound::SampleFormat::Float,
        };
        let mut bytes = Cursor::new(Vec::new());
        let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
        samples.iter().for_each(|&x| writer.write_sample(x).unwrap());
        writer.finalize().unwrap();
        bytes.into_inner()
    }

    /// A chirp with a click, as `fixtures/scripts/log_mel.py` makes it.
    fn chirp() -> Vec<f32> {
        (0..3000)
            .map(|i| {
                let t = f64::from(i) / 8000.0;
                let click = if i == 1700 { 0.5 } else { 0.0 };
                ((2.0 * PI * (200.0 + 3000.0 * t) * t).sin() * 0.4 + click) as f32
            })
            .collect()
    }

    #[test]
    fn log_mel_features_equal_those_of_numpy() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../../../fixtures/log_mel.json")).unwrap();
        let mel = LogMel::new(8000, 20, (25.0, 10.0), 0.5, false).unwrap();
        let mut ours = Vec::new();
        mel.encode_wav(&wav(8000, &chirp()), &mut ours).unwrap();
        let theirs: Vec<f64> =
            golden["features"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        assert_eq!((mel.frames(), ours.len()), (50, theirs.len()));
        for (i, (a, b)) in ours.iter().zip(&theirs).enumerate() {
            assert!((f64::from(*a) - b).abs() < 1e-5, "frame {} band {}: {a} and {b}", i / 20, i % 20);
        }
    }

    #[test]
    fn a_wrong_rate_a_long_clip_and_a_broken_file_are_refused_with_the_fix() {
        let mut mel = LogMel::new(16_000, 20, (25.0, 10.0), 0.1, false).unwrap();
        let refused = |mel: &LogMel, bytes: &[u8]| mel.encode_wav(bytes, &mut Vec::new()).unwrap_err();
        let error = refused(&mel, &wav(8000, &[0.0; 100]));
        assert_eq!(error.code, "wrong_sample_rate");
        assert!(error.message.contains("8000") && error.message.contains("16000"), "{}", error.message);
        assert!(error.fix.contains("16000"), "{}", error.fix);
        let long = wav(16_000, &[0.1; 1601]);
        assert_eq!(refused(&mel, &long).code, "too_long");
        mel.truncate = true;
        assert!(mel.encode_wav(&long, &mut Vec::new()).is_ok());
        assert_eq!(refused(&mel, &long[..long.len() - 3]).code, "broken_wav");
        assert_eq!(refused(&mel, b"no sound").code, "broken_wav");
    }

    #[test]
    fn integer_samples_and_two_channels_become_one_channel_of_floats() {
        let spec = hound::WavSpec {
            channels: 2,
            sample_rate: 8000,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut bytes = Cursor::new(Vec::new());
        let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
        for x in [16_384i16, 0, -32_768, -32_768] {
            writer.write_sample(x).unwrap();
        }
        writer.finalize().unwrap();
        let clip = read_wav(&bytes.into_inner()).unwrap();
        assert_eq!(clip, Clip { sample_rate: 8000, samples: vec![0.25, -1.0] });
    }
}
